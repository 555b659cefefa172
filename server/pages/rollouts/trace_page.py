"""`/trace/<id>`: one rollout read turn by turn, down to its tokens. The SDK prints this link.

A page has so many scenes, texts and tokens at most, however long the rollout is; what is cut off says so, and opens.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import Response

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.pages.rollouts.prompt_tokens import with_texts
from server.pages.rollouts.reading_transcripts import read_transcript
from server.pages.rollouts.rollout_rows import CheckpointName, checkpoint_names
from server.pages.rollouts.scoring import is_scorable
from server.pages.rollouts.surroundings import surroundings
from server.pages.rollouts.tokens import GAP_LEVELS, LEVELS, Strip, last_passes, mean_logprob, strip_of
from server.pages.shared.addresses import address
from server.pages.shared.filters import TraceFilterDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.rollouts.off_policy import Gap, gap_of_rollout, gap_of_sample
from server.rollouts.service import describe, no_such_trace
from server.rollouts.transcript import Part, Scene, Transcript, readable
from server.rollouts.visibility import require_trace
from store.rollouts import (
    JobFacts,
    Resolved,
    Rollout,
    find_job,
    read_recorded,
    resolve_rollout,
)
from store.rollouts.trainer_logprobs import TrainerLogprobs, TrainerLogprobsOf, read_trainer_logprobs
from wire.errors import NotFound

PAGE = 40
"""Scenes of a page."""
_MOST_TEXT, _MOST_TEXT_OPEN = 1_500, 40_000
_MOST_TOKENS, _MOST_TOKENS_OPEN = 1_200, 400
_MOST_TURNS_LIVE = 60
_MOST_SPARE = 50

_FLAGS = {
    "samples_not_recorded": "Some answers could not be recorded while the database did not take them.",
    "malformed_sample": "A step came with tokens that are none.",
    "malformed_step": "A step came without a number or a source.",
    "prompt_chunks": "Prompts held images that were not read: these turns cannot be trained on.",
    "span_id_reused": "Two different spans came under one id; the first counts.",
    "other_trace": "A span names another rollout.",
    "no_span_id": "A span came without an id.",
    "not_an_object": "A span came that is no object.",
    "unknown_picture": "A prompt held a picture that the team has not, or no longer: its turn cannot be trained on.",
}

router = PageRouter()

Index = Annotated[int, Query(ge=0, le=2**31)]


@dataclass(frozen=True, slots=True)
class ShownPart:
    """`num_hidden`: characters that were cut off."""

    part: Part
    text: str
    num_hidden: int


@dataclass(frozen=True, slots=True)
class ShownScene:
    """`place`: among all scenes, from 1. `trainer`: the last pass over the tokens, `gap`: between it and the sampler.
    `strip`: None where there are no tokens, or no room for them."""

    place: int
    scene: Scene
    parts: list[ShownPart]
    checkpoint: CheckpointName | None
    mean_logprob: float | None
    trainer: TrainerLogprobs | None
    gap: Gap | None
    strip: Strip | None
    is_open: bool

    @property
    def has_more(self) -> bool:
        """Whether opening it shows more than this."""
        cut = any(part.num_hidden for part in self.parts)
        return not self.is_open and (cut or self.scene.sample is not None)


@router.get("/trace/{trace_id}")
async def trace_page(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    trace_id: str,
    said: TraceFilterDep,
    start: Annotated[int, Query(alias="from", ge=0, le=2**31)] = 0,
    opened: Annotated[int | None, Query(alias="open", ge=1, le=2**31)] = None,
    token: Index = 0,
    prompt: Annotated[int | None, Query(ge=0, le=2**31)] = None,
    by: Literal["trainer"] | None = None,
    among: Literal["all"] | None = None,
) -> Response:
    """The page that begins after so many scenes, or has the one that is to be open. by: tokens are coloured by how far
    the trainer is from the sampler, not by how likely they were. said: the filter of the list that led here; among: it
    had none."""
    team_id, found_id = visitor.caller.team_id, as_uuid(trace_id)
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await require_trace(context.database, visitor.caller, found_id)
    found = await read_recorded(context.database, context.blobs, team_id, found_id)
    if found is None:
        raise no_such_trace(found_id)
    rollout, spans = found
    here = replace(said, said={**said.said, **({"among": among} if among else {})})
    around = await surroundings(context, visitor.caller, rollout.trace, said if here.said else None)
    async with context.database.connection() as connection:
        kept = (await read_trainer_logprobs(connection, team_id, [found_id])).get(found_id, {})
        named = {one.checkpoint_id for one in (*rollout.reported, *rollout.others, *kept.values())}
        names = await checkpoint_names(connection, team_id, {one for one in named if one is not None})
        job = await find_job(connection, team_id, rollout.trace.job_id) if rollout.trace.job_id else None
        may_score = visitor.may_train and await is_scorable(connection, rollout.trace)
    resolved = resolve_rollout(rollout)
    transcript = await read_transcript(context, rollout, resolved, spans)
    values = await asyncio.to_thread(_values, rollout, resolved, transcript, kept, names, start, opened, token)
    values["prompt"] = None
    for place, shown in enumerate(values["scenes"]):
        if shown.is_open and shown.scene.sample is not None:
            model_id = rollout.trace.model_id
            tokens = await with_texts(context, model_id, shown.scene.sample, shown.strip, prompt)
            values["prompt"], strip = tokens
            values["scenes"][place] = replace(shown, strip=strip)
    by = by if values["trainer_gap"] else None
    return page(
        request,
        "rollouts/trace.html",
        visitor,
        job=job,
        group=_group_link(job, rollout),
        by=by,
        filtered=here,
        around=around,
        may_score=may_score,
        levels=GAP_LEVELS if by else LEVELS,
        **values,
    )


def _values(
    rollout: Rollout,
    resolved: Resolved,
    transcript: Transcript,
    kept: TrainerLogprobsOf,
    names: dict[UUID, CheckpointName],
    start: int,
    opened: int | None,
    token: int,
) -> dict[str, Any]:
    places = {sample.digest: place for place, sample in enumerate(resolved.samples, 1)}
    if opened is not None:
        start = (min(opened, len(transcript.scenes)) - 1) // PAGE * PAGE
    start = max(0, min(start, len(transcript.scenes) - 1) // PAGE * PAGE)
    trace = describe(rollout.trace)
    return {
        "trace": trace,
        "trace_id": rollout.trace.id,
        "model_id": rollout.trace.model_id,
        "result": readable(trace.evaluation_result)[:_MOST_TEXT_OPEN] if trace.evaluation_result else None,
        "flags": [(flag, _FLAGS.get(flag, "")) for flag in trace.flags],
        "names": names,
        "transcript": transcript,
        "turn_of": places,
        "scenes": _shown(transcript, kept, names, start, opened, token),
        "trainer_gap": gap_of_rollout(resolved.samples, kept),
        "passes": last_passes(resolved.samples, kept),
        "num_passed": sum(sample.digest in kept for sample in resolved.samples),
        "start": start,
        "opened": opened,
        "end": min(start + PAGE, len(transcript.scenes)),
        "page_size": PAGE,
        "num_turns": _num_turns(transcript, resolved),
        "is_live": trace.status == "running" and len(transcript.scenes) <= _MOST_TURNS_LIVE,
        "spare": transcript.spare[:_MOST_SPARE],
    }


def _num_turns(transcript: Transcript, resolved: Resolved) -> int:
    return max(len(resolved.samples), sum(scene.number is not None for scene in transcript.scenes))


def _shown(
    transcript: Transcript,
    kept: TrainerLogprobsOf,
    names: dict[UUID, CheckpointName],
    start: int,
    opened: int | None,
    token: int,
) -> list[ShownScene]:
    shown, room = list[ShownScene](), _MOST_TOKENS
    for place, scene in enumerate(transcript.scenes[start : start + PAGE], start + 1):
        is_open = place == opened
        sample = scene.sample
        trainer = kept.get(sample.digest) if sample else None
        strip = _strip(scene, trainer, token, _MOST_TOKENS_OPEN) if is_open else _strip(scene, trainer, 0, room)
        if strip is not None and not is_open:
            room -= len(strip.tokens)
        shown.append(
            ShownScene(
                place,
                scene,
                [_cut(part, _MOST_TEXT_OPEN if is_open else _MOST_TEXT) for part in scene.parts],
                names.get(sample.checkpoint_id) if sample and sample.checkpoint_id else None,
                mean_logprob(sample) if sample else None,
                trainer,
                gap_of_sample(sample, trainer) if sample else None,
                strip,
                is_open,
            )
        )
    return shown


def _strip(scene: Scene, trainer: TrainerLogprobs | None, first: int, room: int) -> Strip | None:
    if scene.sample is None or room <= 0:
        return None
    return strip_of(scene.sample, scene.texts, first, room, trainer)


def _cut(part: Part, most: int) -> ShownPart:
    return ShownPart(part, part.text[:most], max(0, len(part.text) - most))


def _group_link(job: JobFacts | None, rollout: Rollout) -> str | None:
    trace = rollout.trace
    if not trace.group_id:
        return None
    return address(f"/jobs/{job.id}" if job else "/traces", tab="rollouts" if job else None, group=trace.group_id)
