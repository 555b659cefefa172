"""A base that sees, on any number of ranks: the text part is divided, and each rank has all of the tower and encodes
what its own shards show. Bits and refusals are those of one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.processes import RankProcesses
from tests.distributed.training import digest
from tests.unit.trainer.pictured import PICTURES, A, pictured_batch, sighted
from tests.unit.trainer.tiny import LORA, MODEL, session
from tests.vision.families import FAMILIES, save_vision_family
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup
from trainer.distributed.loading import load_sharded_base
from trainer.engine.base_model import load_base_model
from trainer.engine.canary import compute_canary
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.canary import Canary
from wire.conversion import to_datums
from wire.engine import NO_PICTURES, AdamParams, Engine, LossChoice
from wire.errors import InvalidRequest

SETTINGS = EngineSettings(max_tokens_per_pass=60, threads=1, min_shard_tokens=8)
LOSS = LossChoice("importance_sampling", {"kl_penalty_coef": 0.1})
UNREADABLE = {**PICTURES, A.digest: b"no picture"}


@dataclass(frozen=True, slots=True)
class Ended:
    """With which bits, and with which words a pass was refused whose picture nobody can read."""

    digests: list[str]
    refusal: str
    canary: Canary
    num_shards: int


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    save_vision_family(FAMILIES[request.param], folder)
    return request.param, folder


def engine_of(folder: Path, group: RankGroup | None = None) -> TrainingEngine:
    loaded = load_base_model(str(folder)) if group is None else load_sharded_base(str(folder), ranks=group)
    assert loaded.info.pictures is not None
    return TrainingEngine(loaded, SETTINGS, ranks=group)


def train(engine: Engine, held: TrainingEngine, family: str) -> Ended:
    """A pass that is refused; then, twice, a built-in loss, the caller's own, and a step."""
    engine.open(MODEL, LORA, None, None)
    datums, digests, before = to_datums(pictured_batch(sighted(family))), list[str](), digest(held)
    with pytest.raises(InvalidRequest) as caught:
        engine.forward_backward(MODEL, datums, LOSS, pictures=UNREADABLE)
    assert digest(held) == before
    for _ in range(2):
        engine.forward_backward(MODEL, datums, LOSS, pictures=PICTURES)
        scored = engine.forward(MODEL, datums, pictures=PICTURES)
        weights = [(0.3 * (one.logprobs + 4) * one.mask).astype(np.float32) for one in scored]
        engine.backward(MODEL, datums, weights, pictures=PICTURES)
        engine.optim_step(MODEL, AdamParams(1e-2))
        digests.append(digest(held))
    snapshot = engine.snapshot(MODEL)
    return Ended(digests, caught.value.message, snapshot.canary, len(engine.plan(datums).shards))


def together(group: RankGroup, family: str, folder: Path) -> Ended | str:
    engine = engine_of(folder, group)
    if group.rank:
        follow(engine, group)
        return digest(engine)
    leading = DistributedEngine(engine, group)
    ended = train(leading, engine, family)
    leading.end()
    return ended


def test_two_ranks_end_in_the_bits_of_one(two_ranks: RankProcesses, base: tuple[str, Path]) -> None:
    family, folder = base
    engine = engine_of(folder)
    expected = train(engine, engine, family)
    assert expected.num_shards > 1
    assert expected.canary == compute_canary(engine._base, session(engine))
    assert expected.canary.picture is not None
    assert "no PNG" in expected.refusal
    seen, follower = two_ranks.run(together, family, folder)
    assert (seen, follower) == (expected, expected.digests[-1])


@pytest.mark.slow
def test_three_or_four_ranks_do(more_ranks: RankProcesses, base: tuple[str, Path]) -> None:
    family, folder = base
    engine = engine_of(folder)
    expected = train(engine, engine, family)
    seen, *followers = more_ranks.run(together, family, folder)
    assert seen == expected
    assert set(followers) == {expected.digests[-1]}


def test_a_call_without_its_pictures_is_refused_by_all(two_ranks: RankProcesses, base: tuple[str, Path]) -> None:
    family, folder = base
    first, second = two_ranks.run(without_pictures, family, folder)
    assert "did not come with the call" in first[0]
    assert first[1] == second[1]


def without_pictures(group: RankGroup, family: str, folder: Path) -> tuple[str, str]:
    engine = engine_of(folder, group)
    if group.rank:
        follow(engine, group)
        return "", digest(engine)
    leading, datums = DistributedEngine(engine, group), to_datums(pictured_batch(sighted(family)))
    leading.open(MODEL, LORA, None, None)
    with pytest.raises(InvalidRequest) as caught:
        leading.forward_backward(MODEL, datums, LOSS, pictures=NO_PICTURES)
    leading.forward_backward(MODEL, datums, LOSS, pictures=PICTURES)
    leading.end()
    return caught.value.message, digest(engine)
