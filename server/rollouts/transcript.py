"""A rollout as people read it: what was asked, said, called and answered, in order, each with its sample.

It is made from telemetry, where there is any, otherwise from the gateway's record: of each answer the messages that
were new, and the reply. What was recorded is anybody's JSON: whatever does not have the form that is expected is shown
as it is.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from server.rollouts.seen_pictures import Click, SeenPicture, click_in, picture_in
from server.values.sanitizing import readable_value, storable_text
from store.rollouts import RecordedSample, RecordedSpan, Resolved
from store.rollouts.spans import STEP_SCHEMA
from wire.extension import Media
from wire.trajectories import Turn


@dataclass(frozen=True, slots=True)
class Part:
    """A text, or pictures, with a label. `is_code`: spaces and lines matter. `click`: where a call of a tool clicks."""

    label: str
    text: str
    is_code: bool = False
    is_error: bool = False
    pictures: tuple[SeenPicture, ...] = ()
    click: Click | None = None


@dataclass(slots=True)
class Scene:
    """One thing that happened. `who`: agent, tool, user, system, task, subagent or whatever a step called itself.

    `number`: of the turn, from 1, where it is one. `sample`: what the sampler was asked and answered. `texts`: of the
    sampled tokens, where they are known.
    """

    who: str
    title: str
    parts: list[Part] = field(default_factory=list[Part])
    number: int | None = None
    step_id: int | None = None
    sample: RecordedSample | None = None
    texts: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """`spare`: samples on record that are no turn of the rollout. `is_reported`: by telemetry."""

    scenes: list[Scene]
    spare: list[RecordedSample]
    is_reported: bool


def build_transcript(
    resolved: Resolved,
    samples: Iterable[RecordedSample],
    spans: Sequence[RecordedSpan],
    pictures: Collection[str] | None = None,
) -> Transcript:
    """samples: all that are on record, with their conversations. pictures: names of those that can be shown; None:
    nobody looks."""
    steps = [span for span in spans if span.flag is None and span.schema_tag == STEP_SCHEMA]
    turns = {sample.digest for sample in resolved.samples}
    scenes = _told(resolved, steps) if steps else _recorded(resolved.samples)
    spare = [sample for sample in samples if sample.digest not in turns]
    if pictures is not None:
        for scene in scenes:
            scene.parts = [_showable(part, pictures) for part in scene.parts]
    _show_what_turns_saw(scenes)
    _show_clicks(scenes)
    _number(scenes)
    return Transcript(scenes, spare, bool(steps))


def _number(scenes: list[Scene]) -> None:
    number = 0
    for scene in scenes:
        if scene.sample is not None or scene.who == "agent":
            number += 1
            scene.number = number


def _showable(part: Part, names: Collection[str]) -> Part:
    if all(picture.name in names for picture in part.pictures):
        return part
    kept = tuple(picture for picture in part.pictures if picture.name in names)
    return replace(part, text="" if kept else "[a picture that is not kept by itself]", pictures=kept)


def _show_what_turns_saw(scenes: list[Scene]) -> None:
    """Pictures that are new in a turn's prompt, where nothing before the turn shows as many."""
    before, num_shown = None, 0
    for scene in scenes:
        if scene.sample is None:
            num_shown += sum(len(part.pictures) for part in scene.parts)
            continue
        turn = scene.sample.turn
        new = _new_media(before, turn)
        if len(new) > num_shown:
            seen = tuple(SeenPicture(item.name, item.width, item.height) for item in new)
            scene.parts.insert(0, Part("Sees", "", pictures=seen))
        before, num_shown = turn, 0


def _new_media(before: Turn | None, turn: Turn) -> list[Media]:
    """Those that the turn before did not see; of a prompt that does not go on from it, those of other pictures."""
    if before is None:
        return list(turn.media)
    if len(before.prompt_ids) and turn.continues(before):  # without arrays there is nothing to go on from
        return [item for item in turn.media if item.start >= len(before.prompt_ids) + len(before.output_ids)]
    known = {item.digest for item in before.media}
    return [item for item in turn.media if item.digest not in known]


def _show_clicks(scenes: list[Scene]) -> None:
    """Each on the picture that was seen last."""
    last: tuple[Scene, int] | None = None
    for scene in scenes:
        for place, part in enumerate(scene.parts):
            if part.pictures:
                last = scene, place
            elif part.click is not None and last is not None:
                seen, at = last
                seen.parts[at] = _clicked(seen.parts[at], part.click)


def _clicked(part: Part, click: Click) -> Part:
    *others, picture = part.pictures
    if not picture.takes(click):
        return part
    return replace(part, pictures=(*others, replace(picture, clicks=(*picture.clicks, click))))


def _told(resolved: Resolved, steps: Sequence[RecordedSpan]) -> list[Scene]:
    """By the steps; a turn whose step got lost stands before the turn that goes on from it."""
    turns = [
        sample for sample in resolved.samples if not sample.is_of_upstream
    ]  # no step names these, but says as much
    samples = {sample.digest: sample for sample in turns}
    left = deque(turns)
    scenes = list[Scene]()
    if left and not any(step.source == "user" for step in steps):
        scenes += _asked(left[0], 0)
    for step in steps:
        sample = samples.get(step.sample_digest) if step.sample_digest else None
        if sample is not None and any(one.digest == sample.digest for one in left):
            while (first := left.popleft()).digest != sample.digest:
                scenes.append(_reply(first))
        scenes.append(_step(step, sample))
    return [*scenes, *map(_reply, left)]


def _recorded(samples: Sequence[RecordedSample]) -> list[Scene]:
    scenes, known = list[Scene](), list[Any]()
    for sample in samples:
        messages = sample.conversation.messages if sample.conversation else []
        scenes += _asked(sample, _num_known(known, messages))
        scenes.append(_reply(sample))
        known = messages
    return scenes


def _num_known(known: list[Any], messages: list[Any]) -> int:
    """How many messages the last request showed already, with the answer to it that comes back as a message."""
    shared = next((i for i, (one, other) in enumerate(zip(known, messages, strict=False)) if one != other), None)
    if shared is not None or not known or len(messages) <= len(known):
        return shared or min(len(known), len(messages))
    return len(known) + (_dict(messages[len(known)]).get("role") == "assistant")


def _asked(sample: RecordedSample, num_known: int) -> list[Scene]:
    if sample.conversation is None:
        return []
    scenes, preamble = list[Scene](), sample.conversation.preamble
    if num_known == 0 and preamble.get("tools"):
        names = [_tool_name(tool) for tool in _list(preamble["tools"])]
        scenes.append(Scene("system", "Tools offered", [Part("", ", ".join(names))]))
    if num_known == 0 and "prompt" in preamble:
        scenes.append(Scene("user", "Prompt", [Part("", readable(preamble["prompt"]), is_code=True)]))
    return [*scenes, *(_message(message) for message in sample.conversation.messages[num_known:])]


def _message(message: Any) -> Scene:
    role = _dict(message).get("role")
    who = role if isinstance(role, str) else "user"
    who = "agent" if who == "assistant" else who
    titles = {"user": "User", "system": "System prompt", "tool": "Tool result", "agent": "Earlier answer"}
    return Scene("note" if who == "agent" else who, titles.get(who, storable_text(who)[:40]), _said(message))


def _reply(sample: RecordedSample) -> Scene:
    reply = sample.conversation.reply if sample.conversation else None
    parts = [Part("", storable_text(reply))] if isinstance(reply, str) else _said(reply)
    return Scene("agent", "Agent", parts, step_id=sample.step_id, sample=sample)


def _said(message: Any) -> list[Part]:
    """Of a message in the chat form."""
    if not isinstance(message, dict):
        return [Part("", readable(message))] if message is not None else []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    calls = [_dict(_dict(call).get("function")) for call in _list(message.get("tool_calls"))]
    return [*_parts("Reasoning", reasoning), *_parts("", message.get("content")), *map(_call, calls)]


def _step(step: RecordedSpan, sample: RecordedSample | None) -> Scene:
    payload = _dict(_dict(_dict(step.span).get("attributes")).get("hud.payload"))
    who = step.source or "step"
    read = {"agent": _agent, "tool": _tool, "task": _task}.get(who, _other)
    title, parts = read(payload)
    if payload.get("error"):
        parts.append(Part("Error", readable(payload["error"]), is_error=True))
    texts = _token_texts(payload, sample) if sample else None
    return Scene(who, title, parts, step_id=step.step_id, sample=sample, texts=texts)


def _agent(payload: dict[str, Any]) -> tuple[str, list[Part]]:
    parts = [*_parts("Reasoning", payload.get("reasoning")), *_parts("", payload.get("content"))]
    parts += _parts("Refusal", payload.get("refusal"))
    return "Agent", [*parts, *(_call(_dict(call)) for call in _list(payload.get("tool_calls")))]


def _tool(payload: dict[str, Any]) -> tuple[str, list[Part]]:
    call, result = _dict(payload.get("call")), _dict(payload.get("result"))
    is_error = bool(result.get("isError"))
    said = _parts("Error" if is_error else "Result", result.get("content"), is_code=True, is_error=is_error)
    if not said and result.get("structuredContent") is not None:
        said = [Part("Result", readable(result["structuredContent"]), is_code=True, is_error=is_error)]
    if not said:
        nothing = "The tool failed and said nothing." if is_error else "Nothing."
        said = [Part("Result", nothing, is_code=True, is_error=is_error)]
    name = call.get("name")
    title = f"Tool {storable_text(name)[:80]}" if isinstance(name, str) else "Tool"
    arguments = [Part("Arguments", readable(call["arguments"]), is_code=True)] if call.get("arguments") else []
    return title, [*arguments, *said]


def _task(payload: dict[str, Any]) -> tuple[str, list[Part]]:
    call = _dict(payload.get("task_call"))
    phase = {"setup": "Task set up", "evaluate": "Evaluation"}.get(str(call.get("phase")), "Task")
    parts = [Part("Arguments", readable(call["arguments"]), is_code=True)] if call.get("arguments") else []
    if call.get("result") is not None:
        parts.append(Part("Result", readable(call["result"]), is_code=True))
    return phase, parts


def _other(payload: dict[str, Any]) -> tuple[str, list[Part]]:
    source = storable_text(str(payload.get("source") or "step"))
    parts = [part for message in _list(payload.get("messages")) for part in _said(message)]
    if not parts and payload.get("subagent") is not None:
        parts = [Part("", readable(payload["subagent"]), is_code=True)]
    return {"user": "User", "system": "System", "subagent": "Subagent"}.get(source, source[:40]), parts


def _call(call: dict[str, Any]) -> Part:
    name, arguments = call.get("name"), call.get("arguments")
    label = storable_text(name)[:80] if isinstance(name, str) else "a tool"
    text = readable(arguments) if arguments is not None else ""
    return Part(f"Calls {label}", text, is_code=True, click=click_in(arguments))


def _token_texts(payload: dict[str, Any], sample: RecordedSample) -> list[str] | None:
    """Texts of the sampled tokens, out of the completion that the client keeps with its step."""
    choice = _dict(next(iter(_list(_dict(payload.get("raw")).get("choices"))), None))
    entries = _list(_dict(choice.get("logprobs")).get("content"))
    texts = [_dict(entry).get("token") for entry in entries]
    if len(texts) != len(sample.turn.output_ids):
        return None
    return [storable_text(text) if isinstance(text, str) else "" for text in texts]


def _parts(label: str, value: Any, *, is_code: bool = False, is_error: bool = False) -> list[Part]:
    """Of a text, a content block, or a list of them: texts and pictures in order."""
    found = list[Part]()
    blocks = [(picture_in(_dict(block)), block) for block in (_list(value) or [value])]
    for is_seen, several in groupby(blocks, key=lambda one: one[0] is not None):
        pictures, texts = zip(*several, strict=True)
        shown = Part("" if found else label, "\n".join(filter(None, map(_contents, texts))), is_code, is_error)
        if is_seen:
            found.append(replace(shown, text="", pictures=pictures))
        elif shown.text:
            found.append(shown)
    return found


def _contents(value: Any) -> str:
    """A text, a content block, or a list of them; what is no text is named."""
    if value is None or isinstance(value, str):
        return storable_text(value or "")
    if isinstance(value, list):
        return "\n".join(filter(None, map(_contents, value)))
    block = _dict(value)
    if isinstance(block.get("text"), str):
        return storable_text(block["text"])
    if block.get("type") in ("image", "image_url", "audio", "input_audio"):
        return f"[{block['type']}: {storable_text(str(block.get('mimeType') or 'not shown'))[:60]}]"
    return readable(value)


def readable(value: Any) -> str:
    """JSON with a line for each field; a text that holds JSON likewise."""
    if isinstance(value, str):
        return storable_text(value)
    return json.dumps(readable_value(value), indent=2, ensure_ascii=False)


def _tool_name(tool: Any) -> str:
    name = _dict(_dict(tool).get("function")).get("name") or _dict(tool).get("name")
    return storable_text(name)[:80] if isinstance(name, str) else "?"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
