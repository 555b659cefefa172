"""What the local sampler reports behind pictures is what transformers and PEFT compute of their pixels."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from structlog.testing import capture_logs
from transformers import AutoModelForImageTextToText

from sampler.backends.local import LocalBackend, LocalSettings
from sampler.backends.local.sequence import Sequence as Row
from sampler.backends.local.vision import Features, Vision
from tests.ports.sampler_backends import Answer, put_together
from tests.vision.families import FAMILIES, VisionFamily, drawn, make_vision_model, png_of, save_vision_family
from wire.errors import CorruptCheckpoint, InvalidRequest
from wire.extension import Media
from wire.sampling import GenerateRequest, MediaItem, RenderRequest, SamplingParams, ScoreRequest

SHOTS = [drawn(1), drawn(2, 64, 48), drawn(3, 100, 30), drawn(4, 20, 90)]
"""The first two have equal ids in a prompt."""
PNGS = {sha256(png_of(shot)).hexdigest(): png_of(shot) for shot in SHOTS}
NAMES = list(PNGS)
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
SAMPLED = {"max_tokens": 12, "ignore_eos": True}


def shown(number: int) -> dict[str, Any]:
    return {
        "type": "picture",
        "name": NAMES[number],
        "width": SHOTS[number].width,
        "height": SHOTS[number].height,
    }


@dataclass
class Prompt:
    ids: list[int]
    media: list[MediaItem]

    @property
    def pictures(self) -> list[Image.Image]:
        return [SHOTS[NAMES.index(item.name)] for item in self.media]

    def followed_by(self, answer: Answer, *more: Prompt) -> Prompt:
        """The next turn: the answer, and what comes then."""
        whole = Prompt([*self.ids, *answer.ids], list(self.media))
        for part in more:
            moved = [item.model_copy(update={"start": item.start + len(whole.ids)}) for item in part.media]
            whole = Prompt([*whole.ids, *part.ids], [*whole.media, *moved])
        return whole


@dataclass
class Base:
    """A backend with an adapter on the text part, and what computes the same by itself."""

    family: VisionFamily
    folder: Path
    backend: LocalBackend
    adapter: Path
    references: dict[str, Any] = field(default_factory=dict[str, Any])

    async def prompt(self, *parts: str | int, **changes: Any) -> Prompt:
        content = [shown(part) if isinstance(part, int) else {"type": "text", "text": part} for part in parts]
        request = RenderRequest(messages=[{"role": "user", "content": content}], **changes)
        tokens = await self.backend.render(request)
        return Prompt(tokens.token_ids, tokens.media)

    async def ask(
        self, prompt: Prompt, adapter: str = "base", backend: LocalBackend | None = None, **params: Any
    ) -> Answer:
        request = GenerateRequest(
            adapter=adapter,
            prompt_token_ids=prompt.ids,
            prompt_media=prompt.media,
            params=SamplingParams(**SAMPLED | params),
        )
        async with aclosing((backend or self.backend).generate(request, PNGS)) as events:
            return put_together([event async for event in events])

    def logprobs(self, prompt: Prompt, adapter: str, ids: Sequence[int] = ()) -> torch.Tensor:
        """[T - 1, V] of the whole, by transformers and PEFT, from pixels."""
        whole = torch.tensor([[*prompt.ids, *ids]])
        is_picture = torch.zeros_like(whole)
        for item in prompt.media:
            is_picture[0, item.start : item.start + item.num_tokens] = 1
        kinds = "token_type_ids" if self.family.name == "gemma3" else "mm_token_type_ids"
        pixels: Mapping[str, Any] = {}
        if prompt.media:
            pixels = self.family.make_image_processor()(images=prompt.pictures, return_tensors="pt")
        model = self.reference(adapter)
        strays = (whole == self.placeholder_id) & (is_picture == 0)
        with torch.no_grad(), embedding_strays(model, strays, self.placeholder_id):
            fed = whole.masked_fill(strays, 0)
            output = model(input_ids=fed, **pixels, **{kinds: is_picture}, use_cache=False)
        return output.logits[0, :-1].log_softmax(-1)

    @property
    def placeholder_id(self) -> int:
        assert self.backend.info.pictures is not None
        return self.backend.info.pictures.placeholder_id

    def reference(self, adapter: str) -> Any:
        if adapter not in self.references:
            model: Any = make_vision_model(self.family)
            model = PeftModel.from_pretrained(model, str(self.adapter)).eval() if adapter != "base" else model
            self.references[adapter] = model
        return self.references[adapter]

    def require_equal(self, prompt: Prompt, answer: Answer, adapter: str) -> None:
        logprobs = self.logprobs(prompt, adapter, answer.ids)[len(prompt.ids) - 1 :]
        expected = logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


@contextmanager
def embedding_strays(model: Any, strays: torch.Tensor, placeholder_id: int) -> Generator[None]:
    """Placeholder ids that a policy sampled are text, and transformers counts them as a picture's: another id is fed in
    their places, and embedded as they are."""

    def embed(module: Any, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        return torch.where(strays[..., None], module.forward(torch.tensor([[placeholder_id]])), embedded)

    hook = model.get_input_embeddings().register_forward_hook(embed)
    yield
    hook.remove()


def save_adapter(family: VisionFamily, folder: Path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=TARGETS)
    model = get_peft_model(make_vision_model(family), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(str(folder), save_embedding_layers=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bases(tmp_path_factory: pytest.TempPathFactory):
    opened = dict[str, Base]()
    for name, family in FAMILIES.items():
        folder, adapter = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp("adapter")
        save_vision_family(family, folder)
        save_adapter(family, adapter)
        backend = LocalBackend(str(folder), LocalSettings(seed=0))
        backend.load_adapter("base", None)
        backend.load_adapter("tuned", adapter)
        opened[name] = Base(family, folder, backend, adapter)
    yield opened
    await asyncio.gather(*(base.backend.close() for base in opened.values()))


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, bases: dict[str, Base]) -> Base:
    return bases[request.param]


async def test_logprobs_are_those_of_transformers_and_peft_for_any_mix_in_one_batch(base: Base):
    """Prompts that share pictures, that have others behind equal ids, and that have none, under two adapters."""
    prompts = [
        await base.prompt("what is ", 0, "?"),
        await base.prompt("what is ", 1, "?"),
        await base.prompt("what is ", 0, " or ", 2, " or ", 0),
        await base.prompt(3, 2, "which was first, and what is behind it, in many words?"),
        await base.prompt("no picture at all"),
    ]
    asked = [(prompt, adapter) for adapter in ("base", "tuned") for prompt in prompts]
    answers = await asyncio.gather(*(base.ask(*each, seed=at) for at, each in enumerate(asked)))
    for (prompt, adapter), answer in zip(asked, answers, strict=True):
        assert len(answer.ids) == SAMPLED["max_tokens"]
        base.require_equal(prompt, answer, adapter)


async def test_turns_that_go_on_from_sampled_ids_are_exact(base: Base):
    for adapter in ("base", "tuned"):
        prompt = await base.prompt("this: ", 0)
        for number in (2, 1, 3):
            answer = await base.ask(prompt, adapter)
            base.require_equal(prompt, answer, adapter)
            prompt = prompt.followed_by(answer, await base.prompt("and ", number, "?"))
        base.require_equal(prompt, await base.ask(prompt, adapter), adapter)


async def test_answers_to_one_prompt_share_it(base: Base, monkeypatch: pytest.MonkeyPatch):
    prompt = await base.prompt("what is ", 0, " beside ", 2)
    shared = list[bool]()
    same_prompt = Row.same_prompt

    def noted(self: Row, other: Row) -> bool:
        shared.append(same_prompt(self, other))
        return shared[-1]

    monkeypatch.setattr(Row, "same_prompt", noted)
    answers = await asyncio.gather(*(base.ask(prompt, "tuned", seed=seed) for seed in range(4)))
    assert any(shared)
    assert len({tuple(answer.ids) for answer in answers}) > 1
    for answer in answers:
        base.require_equal(prompt, answer, "tuned")


async def test_a_prompt_may_end_with_a_picture_and_be_shared(base: Base):
    """Whoever joins later is computed from the last token on, which is inside of the picture's run."""
    prompt = await base.prompt("what is ", 2)
    item = prompt.media[0]
    ended = Prompt(prompt.ids[: item.start + item.num_tokens], prompt.media)
    first = asyncio.ensure_future(base.ask(ended, "tuned", max_tokens=80))
    await asyncio.sleep(0.02)
    late = await asyncio.gather(*(base.ask(ended, "tuned", seed=seed) for seed in range(2)))
    for answer in (await first, *late):
        base.require_equal(ended, answer, "tuned")


async def test_other_pictures_behind_equal_ids_never_share_keys_and_values(base: Base):
    """One runs on while the other joins, and both begin together."""
    one, other = await base.prompt("what is ", 0, "?"), await base.prompt("what is ", 1, "?")
    assert (one.ids, one.media[0].start) == (other.ids, other.media[0].start)
    long = asyncio.ensure_future(base.ask(one, "tuned", max_tokens=60))
    await asyncio.sleep(0.02)
    late, *together = await asyncio.gather(
        base.ask(other, "tuned"), base.ask(one, "base", seed=1), base.ask(other, "base", seed=1)
    )
    base.require_equal(one, await long, "tuned")
    base.require_equal(other, late, "tuned")
    for prompt, answer in zip((one, other), together, strict=True):
        base.require_equal(prompt, answer, "base")
    assert together[0].logprobs != together[1].logprobs


async def test_placeholder_ids_without_a_picture_are_text(base: Base):
    prompt = await base.prompt("what is ", 0, "?")
    strays = Prompt([*prompt.ids, base.placeholder_id, 65, base.placeholder_id], prompt.media)
    base.require_equal(strays, await base.ask(strays), "base")
    alone = Prompt([65, base.placeholder_id, 66], [])
    base.require_equal(alone, await base.ask(alone, "tuned"), "tuned")


async def test_scores_are_those_of_a_forward_pass_and_pictures_have_none(base: Base):
    prompt = await base.prompt("what is ", 0, " or ", 2, "?")
    length = len(prompt.ids)
    targets = [[token, 5] for token in range(length - 1)]
    for last_n in (None, length - prompt.media[0].start - 2):
        request = ScoreRequest(
            adapter="tuned",
            prompt_token_ids=prompt.ids,
            prompt_media=prompt.media,
            top_logprobs=3,
            targets=targets,
            last_n=last_n,
        )
        scores = await base.backend.score(request, PNGS)
        logprobs = base.logprobs(prompt, "tuned")
        hidden = {at for item in prompt.media for at in range(item.start, item.start + item.num_tokens)}
        assert scores.targets is not None
        for at in range(1, length):
            row = at - request.first
            if at in hidden:
                assert scores.targets[at - 1] == [None, None]
            elif row >= 0:
                assert scores.targets[at - 1] == pytest.approx(logprobs[at - 1, targets[at - 1]].tolist(), abs=1e-5)
            if row < 0:
                continue
            if at in hidden:
                assert (scores.logprobs[row], scores.top_ids[row], scores.top_logprobs[row]) == (None, [], [])
            else:
                assert scores.logprobs[row] == pytest.approx(float(logprobs[at - 1, prompt.ids[at]]), abs=1e-5)
                assert scores.top_ids[row] == logprobs[at - 1].topk(3).indices.tolist()


async def test_features_that_were_given_up_are_computed_again(base: Base):
    backend = LocalBackend(str(base.folder), LocalSettings(seed=0, max_feature_bytes=1))
    backend.load_adapter("base", None)
    try:
        prompt = await base.prompt("what is ", 0, " or ", 2, " or ", 3)
        base.require_equal(prompt, await base.ask(prompt, backend=backend), "base")
    finally:
        await backend.close()


async def test_rows_that_were_set_back_are_computed_again_from_their_pictures(base: Base):
    """A cache for two rows, and four that want one."""
    backend = LocalBackend(str(base.folder), LocalSettings(seed=0, kv_cache_tokens=200))
    backend.load_adapter("base", None)
    try:
        prompts = [await base.prompt("what is ", number, "?") for number in range(4)]
        asked = [base.ask(prompt, backend=backend, max_tokens=60, seed=at) for at, prompt in enumerate(prompts)]
        for prompt, answer in zip(prompts, await asyncio.gather(*asked), strict=True):
            base.require_equal(prompt, answer, "base")
    finally:
        await backend.close()


async def test_a_picture_goes_through_the_tower_once_whatever_turns_and_adapters(
    base: Base, monkeypatch: pytest.MonkeyPatch
):
    backend = LocalBackend(str(base.folder), LocalSettings(seed=0))
    encoded = list[str]()
    encode = Vision._encode

    def noted(self: Vision, item: Media, png: bytes) -> Features:
        encoded.append(item.name)
        return encode(self, item, png)

    monkeypatch.setattr(Vision, "_encode", noted)
    try:
        for adapter, path in {"base": None, "tuned": base.adapter}.items():
            backend.load_adapter(adapter, path)
            prompt = await base.prompt("this: ", 0)
            for number in (2, 3, 0):
                answers = await asyncio.gather(*(base.ask(prompt, adapter, backend, seed=seed) for seed in range(3)))
                prompt = prompt.followed_by(answers[0], await base.prompt(number, "?"))
        assert sorted(encoded) == sorted(NAMES[number] for number in (0, 2, 3))
    finally:
        await backend.close()


async def test_a_window_that_is_shorter_than_a_run_bounds_what_its_tokens_see(bases: dict[str, Base], tmp_path: Path):
    gemma = bases["gemma3"]
    shutil.copytree(gemma.folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["sliding_window"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    base = Base(gemma.family, tmp_path, LocalBackend(str(tmp_path), LocalSettings(seed=0)), gemma.adapter)
    base.references["base"] = reference
    base.backend.load_adapter("base", None)
    try:
        assert base.backend.info.pictures is not None
        prompt = await base.prompt("what is ", 0, " or ", 2, "?")
        base.require_equal(prompt, await base.ask(prompt), "base")
    finally:
        await base.backend.close()


async def test_a_long_chat_with_pictures_is_rendered_in_a_process_of_its_own(bases: dict[str, Base]):
    base = bases["gemma3"]
    words = "word " * 700
    parts = [{"type": "text", "text": words}, shown(0)]
    short = await base.prompt(words, 0)
    large = RenderRequest(messages=[{"role": "user", "content": parts}], chat_template_kwargs={"unused": "x" * 40_000})
    rendered = await base.backend.render(large)
    assert (rendered.token_ids, rendered.media) == (short.ids, short.media)
    assert base.backend._chat_text._worker.pid is not None


@pytest.mark.parametrize("settings", [None, {"do_resize": False}])
async def test_a_base_whose_files_do_not_say_how_pictures_are_read_takes_text_alone(
    base: Base, tmp_path: Path, settings: dict[str, Any] | None
):
    shutil.copytree(base.folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings})) if settings else file.unlink()
    with capture_logs() as logs:
        backend = LocalBackend(str(tmp_path), LocalSettings(seed=0))
    try:
        assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["base_takes_text_alone"]
        assert backend.info.pictures is None
        for adapter, path in {"base": None, "tuned": base.adapter}.items():
            backend.load_adapter(adapter, path)
            prompt = Prompt([65, base.placeholder_id, 66, 67], [])
            base.require_equal(prompt, await base.ask(prompt, adapter, backend), adapter)
        with pytest.raises(InvalidRequest, match="no pictures"):
            await base.ask(await base.prompt("what is ", 0), backend=backend)
    finally:
        await backend.close()


async def test_a_size_that_is_not_the_pictures_is_refused_also_where_its_features_are_at_hand(base: Base):
    prompt = await base.prompt("what is ", 0, "?")
    await base.ask(prompt)
    turned = Prompt(prompt.ids, [prompt.media[0].model_copy(update={"width": 48, "height": 64})])
    with pytest.raises(InvalidRequest, match="48×64"):
        await base.ask(turned)


@pytest.mark.parametrize("png", [b"", b"no picture", png_of(drawn(1))[:100], png_of(drawn(9, 48, 64))])
async def test_bytes_that_are_not_the_picture_are_refused_before_the_first_event(bases: dict[str, Base], png: bytes):
    base = bases["qwen3_vl"]
    prompt = await base.prompt("what is ", 0, "?")
    name = sha256(png).hexdigest()
    media = [prompt.media[0].model_copy(update={"name": name})]
    request = GenerateRequest(
        adapter="base", prompt_token_ids=prompt.ids, prompt_media=media, params=SamplingParams(max_tokens=1)
    )
    with pytest.raises(InvalidRequest, match="picture"):
        await anext(base.backend.generate(request, {name: png}))


def test_an_adapter_on_the_tower_is_refused(bases: dict[str, Base], tmp_path: Path):
    base = bases["gemma3"]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"])
    get_peft_model(make_vision_model(base.family), config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(CorruptCheckpoint, match="vision_tower"):
        base.backend.load_adapter("sees", tmp_path)


async def test_a_base_says_how_it_takes_pictures(base: Base):
    rule = base.backend.info.pictures
    assert rule is not None
    assert base.backend.details.pictures == rule.to_json()
    assert rule.preprocessing.startswith("pillow-")
