"""vLLM sees pictures as transformers and PEFT do: by name, in prompts of several turns, through promotions and
restarts. Each family has a server of its own beside the session's, since a server has one base."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image

from sampler.backends.local import LocalBackend, LocalSettings
from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings
from tests.ports.sampler_backends import put_together
from tests.unit.trainer.tiny import datum_of
from tests.vision.families import FAMILIES, drawn, save_vision_family
from tests.vllm.conftest import START_TIMEOUT_S
from tests.vllm.seeing import Prompt, Seeing
from tests.vllm.waiting import until
from trainer.engine.base_model import load_base_model
from trainer.engine.engine import TrainingEngine
from wire.canary import Canary, PictureCanary
from wire.canary_picture import canary_png
from wire.engine import LoraConfig
from wire.errors import CorruptCheckpoint
from wire.extension import TokenSequence
from wire.media_items import media_of
from wire.sampling import GenerateRequest, SamplingParams, ScoreRequest

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

TOLERANCE = 1e-4
TRAINED = LoraConfig(rank=4, alpha=8)
A, B, C = drawn(1), drawn(2), drawn(3, 40, 90)
"""Two of one size, and another."""


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    folder = tmp_path_factory.mktemp(request.param)
    save_vision_family(FAMILIES[request.param], folder)
    return Seeing(FAMILIES[request.param], folder)


@pytest.fixture(scope="module")
def adapters(seeing: Seeing, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    folder = tmp_path_factory.mktemp("adapters")
    first = seeing.save_adapter(folder / "first", 1)
    second = seeing.save_adapter(folder / "second", 2, ["down_proj", "lm_head"])
    return {"base": None, "first": first, "second": second}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(seeing: Seeing) -> AsyncIterator[VllmBackend]:
    settings = VllmSettings(seed=0, start_timeout_s=START_TIMEOUT_S, stalled_s=600.0, max_num_seqs=16)
    backend = await asyncio.to_thread(VllmBackend, str(seeing.folder), settings)
    try:
        yield backend
    finally:
        await backend.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(seeing: Seeing) -> AsyncIterator[LocalBackend]:
    backend = await asyncio.to_thread(LocalBackend, str(seeing.folder), LocalSettings(kv_cache_tokens=4096))
    yield backend
    await backend.close()


def save_trained(trainer: TrainingEngine, folder: Path, seed: int) -> Path:
    """A checkpoint's adapter as the trainer writes it, with weights that a seed decides."""
    model = uuid.uuid4()
    trainer.open(model, TRAINED, None, None)
    weights: Any = trainer._sessions.get(model).weights
    weights.normal_(std=0.15, generator=torch.Generator().manual_seed(seed))
    adapter, state = folder / "adapter", folder / "state"
    adapter.mkdir(parents=True)
    state.mkdir()
    trainer.snapshot(model).write(adapter, state)
    trainer.close(model)
    return adapter


async def sample(
    backend: VllmBackend, adapter: str, prompt: Prompt, *, whole: bool = True, num_tokens: int = 6, **params: Any
) -> tuple[list[int], list[float]]:
    request = GenerateRequest(
        adapter=adapter,
        prompt_token_ids=prompt.ids,
        prompt_media=prompt.media,
        params=SamplingParams(max_tokens=num_tokens, ignore_eos=True, **params),
        whole=whole,
    )
    answer = put_together([event async for event in backend.generate(request, prompt.pictures)])
    return answer.ids, answer.logprobs


def difference(seeing: Seeing, adapter: Path | None, prompt: Prompt, ids: list[int], logprobs: list[float]) -> float:
    """The largest, in nats, from what the reference gives the sampled ids."""
    rows = seeing.logprobs(adapter, seeing.prompt(ids, after=prompt))[len(prompt.ids) - 1 : -1]
    own = rows.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return (own - torch.tensor(logprobs)).abs().max().item()


async def test_turns_with_pictures_are_those_of_the_policy_through_promotions(vllm, seeing, adapters):
    found: list[float] = []
    for name, folder in adapters.items():
        await asyncio.to_thread(vllm.load_adapter, name, folder)
        prompt = seeing.prompt("look: ", A, " and ", B)
        for number, seen in enumerate((C, A, drawn(9, 100, 20))):
            ids, logprobs = await sample(vllm, name, prompt, whole=number % 2 == 0, seed=number)
            found.append(difference(seeing, folder, prompt, ids, logprobs))
            prompt = seeing.prompt(ids, " then ", seen, after=prompt)
        vllm.unload_adapter(name)
    print(f"largest {max(found):.2g} nats over {len(found)} turns")
    assert max(found) < TOLERANCE


async def test_other_pictures_behind_equal_ids_are_other_prompts(vllm, seeing, adapters):
    """Also where vLLM has keys and values of these ids in its prefix cache."""
    await asyncio.to_thread(vllm.load_adapter, "swapped", adapters["first"])
    long = " a text that is longer than a block of vLLM's cache, so that blocks behind the pictures are shared" * 2
    prompts = [seeing.prompt("say ", one, " ", other, long) for one, other in ((A, B), (B, A), (A, A), (A, B))]
    assert len({tuple(prompt.ids) for prompt in prompts}) == 1
    answers = [await sample(vllm, "swapped", prompt, temperature=0.0) for prompt in prompts]
    for prompt, (ids, logprobs) in zip(prompts, answers, strict=True):
        assert difference(seeing, adapters["first"], prompt, ids, logprobs) < TOLERANCE
    assert abs(answers[0][1][0] - answers[1][1][0]) > 100 * TOLERANCE, "or the reference could not tell them apart"
    assert answers[3][0] == answers[0][0]
    vllm.unload_adapter("swapped")


async def test_what_vllm_samples_is_what_trainer_and_local_sampler_score(vllm, local, seeing, tmp_path):
    """Of checkpoints with their canaries; also behind placeholders that stand for no picture, which are text."""
    trainer = TrainingEngine(load_base_model(str(seeing.folder)))
    stray = [seeing.rule.placeholder_id]
    prompts = [
        seeing.prompt("see ", A, " and ", C, " and ", A, "?"),
        seeing.prompt("x ", stray * 2, " ", B, " y ", stray),
    ]
    found: list[float] = []
    for number in (1, 2):
        model, folder = uuid.uuid4(), save_trained(trainer, tmp_path / str(number), number)
        canary = Canary.read(folder)
        assert canary is not None
        assert canary.picture is not None
        for backend in (vllm, local):
            await asyncio.to_thread(backend.load_adapter, f"trained-{number}", folder)
        trainer.open(model, TRAINED, folder, None)
        for prompt in prompts:
            ids, logprobs = await sample(vllm, f"trained-{number}", prompt, num_tokens=20, seed=number)
            media = media_of(prompt.media)
            pictures = {item.digest: prompt.pictures[item.name] for item in media}
            datum = datum_of([*prompt.ids, *ids], len(prompt.ids))
            datum = replace(datum, model_input=TokenSequence(datum.model_input.ids, media))
            (scored,) = trainer.forward(model, [datum], pictures=pictures)
            found.append(np.abs(scored.logprobs[-len(ids) :] - logprobs).max().item())
            request = ScoreRequest(
                adapter=f"trained-{number}",
                prompt_token_ids=[*prompt.ids, *ids],
                prompt_media=prompt.media,
                last_n=len(ids),
            )
            again = await local.score(request, prompt.pictures)
            found.append(np.abs(np.array(again.logprobs, float) - logprobs).max().item())
        trainer.close(model)
        vllm.unload_adapter(f"trained-{number}")
    print(f"largest {max(found):.2g} nats from the trainer's and the local sampler's")
    assert max(found) < TOLERANCE


async def test_prompts_are_scored_but_for_their_pictures(vllm, seeing, adapters):
    for name in ("first", "second"):
        await asyncio.to_thread(vllm.load_adapter, f"score-{name}", adapters[name])
        prompt = seeing.prompt("one ", A, " two ", C, " three")
        request = ScoreRequest(
            adapter=f"score-{name}", prompt_token_ids=prompt.ids, prompt_media=prompt.media, top_logprobs=2
        )
        scores = await vllm.score(request, prompt.pictures)
        rows = seeing.logprobs(adapters[name], prompt)[:-1]
        own = rows.gather(1, torch.tensor(prompt.ids[1:])[:, None])[:, 0].tolist()
        shown = {at for item in prompt.media for at in range(item.start, item.start + item.num_tokens)}
        assert [at for at, logprob in enumerate(scores.logprobs, 1) if logprob is None] == sorted(shown)
        for at, logprob in enumerate(scores.logprobs, 1):
            if at in shown:
                assert scores.top_ids[at - 1] == scores.top_logprobs[at - 1] == []
            else:
                assert logprob == pytest.approx(own[at - 1], abs=TOLERANCE)
                likeliest = rows[at - 1].topk(2).values.tolist()
                assert scores.top_logprobs[at - 1] == pytest.approx(likeliest, abs=TOLERANCE)
        vllm.unload_adapter(f"score-{name}")


def canary_of(seeing: Seeing, adapter: Path, shown: Any) -> Canary:
    """As a trainer saves it, had it seen this picture."""
    text = seeing.prompt([3, 4, 5, 6, 7])
    prompt = seeing.prompt([3, 4], shown, [5, 6, 7])
    (item,) = prompt.media
    stop = item.start + item.num_tokens
    best_text = seeing.logprobs(adapter, text).max(-1)
    best = seeing.logprobs(adapter, prompt)[stop - 1 :].max(-1)
    behind = PictureCanary(prompt.ids, item.start, item.num_tokens, best.indices.tolist(), best.values.tolist())
    return Canary(text.ids, best_text.indices.tolist(), best_text.values.tolist(), "float32", behind)


async def test_a_canary_sees_its_picture(vllm, seeing, adapters, tmp_path):
    own = Image.open(io.BytesIO(canary_png()))
    folder = seeing.save_adapter(tmp_path / "adapter", 5)
    canary_of(seeing, folder, own).write(folder)
    await asyncio.to_thread(vllm.load_adapter, "right", folder)
    vllm.unload_adapter("right")
    canary_of(seeing, folder, own.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).write(folder)
    with pytest.raises(CorruptCheckpoint, match="logprobs behind a picture differ"):
        await asyncio.to_thread(vllm.load_adapter, "wrong", folder)


async def test_what_vllm_has_lost_is_handed_over_again(vllm, seeing, adapters):
    await asyncio.to_thread(vllm.load_adapter, "lost", adapters["first"])
    for whole in (False, True):
        new = drawn(77 + whole, 48, 64)
        prompt = seeing.prompt("see ", new, " and ", A, ".")
        vllm._pictures._known[prompt.media[0].name] = 1  # it has never been handed over
        ids, logprobs = await sample(vllm, "lost", prompt, whole=whole, seed=3)
        assert difference(seeing, adapters["first"], prompt, ids, logprobs) < TOLERANCE
    new = seeing.prompt("see ", drawn(99), ".")
    vllm._pictures._known[new.media[0].name] = 1
    scored = ScoreRequest(adapter="lost", prompt_token_ids=new.ids, prompt_media=new.media)
    assert len((await vllm.score(scored, new.pictures)).logprobs) == len(new.ids) - 1
    vllm.unload_adapter("lost")


async def test_a_server_that_was_started_again_gets_its_pictures_again(vllm, seeing, adapters):
    if seeing.family.name != "qwen2_5_vl":
        pytest.skip("once is enough")
    prompt = seeing.prompt("after ", A, " and ", B)
    await asyncio.to_thread(vllm.load_adapter, "before", adapters["first"])
    before = await sample(vllm, "before", prompt, seed=4)
    os.killpg(vllm._server._process.pid, signal.SIGKILL)
    await until(lambda: not vllm.loaded() and not vllm._server.ready)
    await until(lambda: vllm._server.ready)
    await asyncio.to_thread(vllm.load_adapter, "after", adapters["first"])
    ids, logprobs = await sample(vllm, "after", prompt, seed=4)
    assert ids == before[0]
    assert logprobs == pytest.approx(before[1], abs=TOLERANCE)
