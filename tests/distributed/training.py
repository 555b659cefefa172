"""A run of every kind of call, by one engine or by the ranks of a group: what came back, and the bits that it left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.unit.trainer.tiny import CONTEXT, LORA, MODEL, VOCAB, session, tiny_model, trajectory, turn
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup
from trainer.distributed.loading import load_sharded_base
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.losses import LOSSES
from trainer.engine.ranks import Ranks
from wire.conversion import to_datums
from wire.datums import Datum
from wire.engine import AdamParams, Engine, LoraConfig, LossChoice
from wire.trajectories import Batch, Trajectory

_CLOCKS = ("seconds", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class Work:
    """folder: of the base's files. sizes: of the batches, in trajectories; a step follows each."""

    folder: Path
    losses: Sequence[str] = tuple(sorted(LOSSES))
    sizes: Sequence[int] = (1, 3, 16)
    lora: LoraConfig = LORA
    dtype: torch.dtype = torch.float32
    settings: EngineSettings = field(
        default_factory=lambda: EngineSettings(max_tokens_per_pass=40, threads=1, min_shard_tokens=8)
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """metrics: of each call but what a clock says. digests: of weights, gradient and moments after each step."""

    metrics: Sequence[Mapping[str, float]]
    digests: Sequence[str]
    num_shards: Sequence[int]


def base_folder(folder: Path, architecture: str = "qwen3", dtype: torch.dtype = torch.float32) -> Path:
    """The folder, with the files of a tiny base."""
    tiny_model(architecture, dtype).save_pretrained(folder)
    return folder


def batch_of(num_trajectories: int, seed: int = 0) -> Batch:
    """Groups of two on a prompt, every third one without spread, or strangers if the number is odd; the second
    trajectory is as long as can be."""
    rng = np.random.default_rng(seed)
    trajectories: list[Trajectory] = []
    group_size = 1 if num_trajectories % 2 else 2
    while len(trajectories) < num_trajectories:
        prompt = rng.integers(0, VOCAB, int(rng.integers(3, 12))).tolist()
        has_spread = len(trajectories) // group_size % 3 != 1
        for _ in range(group_size):
            length = CONTEXT - len(prompt) if len(trajectories) == 1 else int(rng.integers(2, 9))
            output = rng.integers(0, VOCAB, length).tolist()
            sampled = turn(prompt, output, (-3.0 * rng.random(length) - 2.0).tolist())
            trajectories.append(trajectory(sampled, reward=float(rng.normal()) if has_spread else 0.5))
    return Batch(trajectories, group_size=group_size)


def with_two_targets(datum: Datum) -> Datum:
    """The same, and another token at each position."""
    targets = np.stack([datum.targets, (datum.targets + VOCAB // 2) % VOCAB], axis=1).astype(np.int32)
    return replace(datum, targets=targets, weights=np.stack([datum.weights, datum.weights], axis=1))


def train(engine: Engine, held: TrainingEngine, work: Work) -> Seen:
    """Every loss, with and without a penalty, the custom path, an evaluation, and a step, on each batch. `held`: where
    the buffers are that `engine` trains."""
    metrics, digests, num_shards = list[Mapping[str, float]](), list[str](), list[int]()
    engine.open(MODEL, work.lora, None, None)
    for number, size in enumerate(work.sizes):
        batch = batch_of(size, number)
        for place, loss in enumerate(work.losses):
            choice = LossChoice(loss, {"kl_penalty_coef": 0.1} if (place + number) % 2 else {})
            datums = to_datums(batch, choice.config)
            metrics.append(_figures(engine.forward_backward(MODEL, datums, choice).metrics))
        datums = to_datums(batch)
        num_shards.append(len(engine.plan(datums).shards))
        scored = engine.forward(MODEL, datums)
        weights = [(0.3 * (one.logprobs + 4) * one.mask).astype(np.float32) for one in scored]
        metrics.append(_figures(engine.backward(MODEL, datums, weights).metrics))
        metrics.append(_figures(engine.evaluate(MODEL, datums, LossChoice("ppo")).metrics))
        metrics.append(_figures(engine.optim_step(MODEL, AdamParams(1e-2)).metrics))
        digests.append(digest(held))
    return Seen(metrics, digests, num_shards)


def digest(engine: TrainingEngine) -> str:
    """Of all buffers of the model."""
    found = hashlib.sha256()
    for buffer in session(engine).buffers().values():
        found.update(buffer.numpy().tobytes())
    return found.hexdigest()


def engine_of(work: Work, ranks: Ranks | None = None, check: Callable[[], None] = lambda: None) -> TrainingEngine:
    """On a base that is whole without ranks, and sharded among them."""
    if ranks is None:
        base = BaseModel(loaded_model(work))
    else:
        base = load_sharded_base(str(work.folder), dtype=work.dtype, ranks=ranks)
    return TrainingEngine(base, work.settings, before_micro_batch=check, ranks=ranks)


@cache
def _shared_base(folder: Path, dtype: torch.dtype, ranks: Ranks) -> BaseModel:
    return load_sharded_base(str(folder), dtype=dtype, ranks=ranks)


def engine_on_shared_base(work: Work, ranks: Ranks, check: Callable[[], None] = lambda: None) -> TrainingEngine:
    """On the sharded base that this rank loads once for all who ask here, and which has measured no pass yet: for
    tests whose ranks end in step."""
    base = _shared_base(work.folder, work.dtype, ranks)
    base._bytes_per_token.clear()
    return TrainingEngine(base, work.settings, before_micro_batch=check, ranks=ranks)


def alone(work: Work) -> Seen:
    """By one process."""
    engine = engine_of(work)
    return train(engine, engine, work)


def together(group: RankGroup, work: Work) -> Seen | str:
    """By all ranks: rank 0's view, and of the others the last digest."""
    engine = engine_of(work, group)
    if group.rank:
        follow(engine, group)
        return digest(engine)
    leading = DistributedEngine(engine, group)
    seen = train(leading, engine, work)
    leading.end()
    return seen


def loaded_model(work: Work) -> PreTrainedModel:
    """By transformers, whole."""
    return AutoModelForCausalLM.from_pretrained(work.folder, dtype=work.dtype)


def _figures(metrics: Mapping[str, float]) -> Mapping[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(_CLOCKS)}
