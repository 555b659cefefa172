"""A policy that sees is one policy: what the local sampler draws from is what the trainer computes of its rollouts,
before a step and after it is promoted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from sampler.backends.local import LocalBackend, LocalSettings
from tests.ports.sampler_backends import put_together
from tests.vision.families import FAMILIES, VisionFamily, drawn, png_of, save_vision_family
from trainer.engine.base_model import load_base_model
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.conversion import to_datums
from wire.engine import AdamParams, LossChoice
from wire.lora import LoraConfig
from wire.media_items import media_of
from wire.sampling import GenerateRequest, RenderRequest, SamplingParams
from wire.trajectories import Batch, Trajectory, Turn

MODEL = UUID(int=20)
SHOTS = [drawn(seed, *size) for seed, size in enumerate([(64, 48), (64, 48), (100, 30), (20, 90)])]
PNGS = {sha256(png_of(shot)).hexdigest(): png_of(shot) for shot in SHOTS}
SCREENS = [[0, 2], [1], [3, 0]]
"""Of each turn. The first two pictures have equal ids."""
TOLERANCE_NATS = 1e-5


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> VisionFamily:
    return FAMILIES[request.param]


def said(text: str, numbers: Sequence[int]) -> dict[str, Any]:
    names = list(PNGS)
    pictures = [
        {"type": "picture", "name": names[number], "width": SHOTS[number].width, "height": SHOTS[number].height}
        for number in numbers
    ]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


async def rollout(backend: LocalBackend, adapter: str, number: int) -> Trajectory:
    """Three turns, each of which goes on from the ids of the one before it. Every other one sees its first picture
    changed behind equal ids."""
    turns, messages = list[Turn](), list[dict[str, Any]]()
    continued: dict[str, Any] = {}
    for screens in SCREENS:
        messages.append(said("and?", [1 - each if each < 2 and number % 2 else each for each in screens]))
        prompt = await backend.render(RenderRequest(messages=messages, **continued))
        request = GenerateRequest(
            adapter=adapter,
            prompt_token_ids=prompt.token_ids,
            prompt_media=prompt.media,
            params=SamplingParams(max_tokens=8, seed=number),
        )
        async with aclosing(backend.generate(request, PNGS)) as events:
            answer = put_together([event async for event in events])
        turns.append(
            Turn(
                np.array(prompt.token_ids, np.int32),
                np.array(answer.ids, np.int32),
                np.array(answer.logprobs, np.float32),
                media_of(prompt.media),
            )
        )
        messages.append({"role": "assistant", "content": answer.text})
        continued = {
            "continued_ids": [*prompt.token_ids, *answer.ids],
            "continued_media": prompt.media,
            "continued_messages": len(messages),
        }
    return Trajectory(tuple(turns), reward=float(number % 3))


async def rollouts(backend: LocalBackend, adapter: str) -> Batch:
    return Batch(await asyncio.gather(*(rollout(backend, adapter, number) for number in range(4))))


def furthest(engine: TrainingEngine, batch: Batch) -> float:
    """The largest difference of a sampled token's logprobs, nats."""
    pictures = {bytes.fromhex(name): png for name, png in PNGS.items()}
    found = engine.forward(MODEL, to_datums(batch), pictures=pictures)
    differences = [np.abs(each.logprobs - each.sampling_logprobs)[each.mask > 0] for each in found]
    assert sum(map(len, differences)) == sum(len(turn.output_ids) for each in batch.trajectories for turn in each.turns)
    return float(np.concatenate(differences).max())


async def test_sampler_and_trainer_agree_before_a_step_and_after_its_promotion(family: VisionFamily, tmp_path: Path):
    save_vision_family(family, tmp_path / "base")
    engine = TrainingEngine(load_base_model(str(tmp_path / "base")), EngineSettings(threads=1))
    engine.open(MODEL, LoraConfig(rank=4), None, None)
    backend = LocalBackend(str(tmp_path / "base"), LocalSettings(seed=0, num_threads=1))
    try:
        assert backend.info.pictures is not None
        assert engine.info.pictures == backend.info.pictures.to_json()
        backend.load_adapter("start", None)
        first = await rollouts(backend, "start")
        turns = [turn for each in first.trajectories for turn in each.turns]
        assert len({tuple(item.digest for item in turn.media) for turn in turns}) == 2 * len(SCREENS)
        assert furthest(engine, first) < TOLERANCE_NATS
        step(engine, first, tmp_path)
        backend.load_adapter("stepped", tmp_path / "adapter")
        second = await rollouts(backend, "stepped")
        assert furthest(engine, second) < TOLERANCE_NATS
        assert furthest(engine, first) > 100 * TOLERANCE_NATS, "the step changed nothing"
    finally:
        await backend.close()


def step(engine: TrainingEngine, batch: Batch, folder: Path) -> None:
    pictures = {bytes.fromhex(name): png for name, png in PNGS.items()}
    engine.forward_backward(MODEL, to_datums(batch), LossChoice("importance_sampling"), pictures=pictures)
    engine.optim_step(MODEL, AdamParams(learning_rate=0.05))
    adapter, state = folder / "adapter", folder / "state"
    adapter.mkdir()
    state.mkdir()
    engine.snapshot(MODEL).write(adapter, state)
