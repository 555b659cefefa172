"""What one rank cannot do, no rank does: all refuse at the same point, keep what they had, and go on."""

from __future__ import annotations

import itertools
import os
import pkgutil
import re
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.processes import RankFailed, RankProcesses
from tests.distributed.training import Work, base_folder, batch_of, digest, engine_of, engine_on_shared_base
from tests.unit.trainer.tiny import LORA, MODEL, OTHER
from trainer.distributed import ordered_sum
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup
from trainer.engine.device_errors import device_error
from trainer.engine.engine import TrainingEngine
from trainer.engine.ranks import at_own_pace
from wire.conversion import to_datums
from wire.datums import Datum
from wire.engine import AdamParams, LossChoice
from wire.errors import CorruptCheckpoint, DeviceLost, HeadwayError, Interrupted, InvalidRequest, OutOfMemory, RanksLost

LOSS, ADAM = LossChoice("importance_sampling", {"kl_penalty_coef": 0.1}), AdamParams(1e-2)
SHORT_LIMIT_S = 3.0
DATUMS = to_datums(batch_of(12))


@dataclass(slots=True)
class Fault:
    """Raises an error on one rank, in its `turn`th turn of the second pass, where it says."""

    rank: int
    where: str
    error: Exception
    turn: int = 1
    is_armed: bool = False
    num_turns: int = 0

    def before_turn(self) -> None:
        """The engine's hook."""
        self.num_turns += self.is_armed
        self.strike("before")

    def strike(self, where: str) -> None:
        """Raise, if it is here and now."""
        if self.is_armed and where == self.where and self.num_turns > self.turn:
            raise self.error


class SpoiltEngine(TrainingEngine):
    """Has a fault, if any, in the second pass."""

    num_passes = 0
    fault: Fault

    def forward_backward(self, *arguments: Any) -> Any:
        """As it is; the second time the fault is armed."""
        self.num_passes += 1
        self.fault.is_armed = self.num_passes == 2
        try:
            return super().forward_backward(*arguments)
        finally:
            self.fault.is_armed = False


@contextmanager
def spoilt(engine: TrainingEngine, fault: Fault, rank: int) -> Generator[None]:
    """The engine has the fault inside the block, if the rank has it."""
    engine.__class__ = SpoiltEngine
    engine.fault = fault if fault.rank == rank else replace(fault, where="nowhere")
    layers = engine._base._model.base_model.layers

    def forward_hook(*_: Any) -> None:
        engine.fault.strike("forward" if torch.is_grad_enabled() else "base")

    def output_hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda _: engine.fault.strike("backward"))

    with layers[1].register_forward_pre_hook(forward_hook), layers[0].register_forward_hook(output_hook):
        yield


@dataclass(frozen=True, slots=True)
class Refusal:
    """What rank 0 was told, and whether all buffers were as before; their digest after good calls that followed."""

    error: Exception | None
    left_as_it_was: bool
    after: str


def refused(group: RankGroup, work: Work, fault: Fault, datums: Sequence[Datum]) -> Refusal | str:
    """A pass, one that may be refused, one more, and a step."""
    hooked = fault if fault.rank == group.rank else replace(fault, where="nowhere")
    engine = engine_on_shared_base(work, group, hooked.before_turn)
    with spoilt(engine, hooked, hooked.rank):
        if group.rank:
            follow(engine, group)
            return digest(engine)
        return led(DistributedEngine(engine, group), engine, datums)


def led(leading: DistributedEngine, engine: TrainingEngine, datums: Sequence[Datum]) -> Refusal:
    """What rank 0 does, whose own engine is given, too."""
    leading.open(MODEL, LORA, None, None)
    leading.forward_backward(MODEL, DATUMS, LOSS)
    before, error = digest(engine), None
    try:
        leading.forward_backward(MODEL, datums, LOSS)
    except Exception as raised:
        error = raised
    left_as_it_was = digest(engine) == before
    leading.forward_backward(MODEL, DATUMS, LOSS)
    leading.optim_step(MODEL, ADAM)
    leading.end()
    return Refusal(error, left_as_it_was, digest(engine))


def undisturbed(work: Work) -> str:
    """The digest after the calls that are not refused, by one process."""
    engine = engine_of(work)
    engine.open(MODEL, LORA, None, None)
    for _ in range(2):
        engine.forward_backward(MODEL, DATUMS, LOSS)
    engine.optim_step(MODEL, ADAM)
    return digest(engine)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(base_folder(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def expected(work: Work) -> str:
    return undisturbed(work)


NOWHERE = Fault(0, "nowhere", ValueError())


def assert_refused(ranks: RankProcesses, work: Work, expected: str, fault: Fault, datums: Sequence[Datum]) -> Exception:
    refusal, *followers = ranks.run(refused, work, fault, datums)
    assert isinstance(refusal, Refusal)
    assert refusal.error is not None
    assert refusal.left_as_it_was
    assert [refusal.after, *followers] == [expected] * ranks.size, "the next pass is right to the bit"
    return refusal.error


@pytest.mark.parametrize("where", ["before", "forward", "base", "backward"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_memory_makes_all_refuse(
    two_ranks: RankProcesses, work: Work, expected: str, rank: int, where: str
) -> None:
    fault = Fault(rank, where, torch.OutOfMemoryError("no memory"))
    error = assert_refused(two_ranks, work, expected, fault, DATUMS)
    assert isinstance(device_error(error), OutOfMemory)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interruption_reaches_all(two_ranks: RankProcesses, work: Work, expected: str, rank: int) -> None:
    fault = Fault(rank, "before", Interrupted("the trainer is stopping"))
    assert isinstance(assert_refused(two_ranks, work, expected, fault, DATUMS), Interrupted)


@pytest.mark.parametrize("index", [0, 11], ids=["of the first rank", "of the last"])
def test_a_number_that_is_not_finite_is_named_by_whoever_computes_it(
    two_ranks: RankProcesses, work: Work, expected: str, index: int
) -> None:
    datum = DATUMS[index]
    far = replace(datum, sampling_logprobs=np.full_like(datum.sampling_logprobs, -3e38))
    error = assert_refused(two_ranks, work, expected, NOWHERE, [*DATUMS[:index], far, *DATUMS[index + 1 :]])
    assert isinstance(error, InvalidRequest)
    assert error.message.startswith(f"input {index}: its loss or gradient is not finite")


def test_a_gradient_that_overflows_is_named_by_whoever_computes_it(
    two_ranks: RankProcesses, work: Work, expected: str
) -> None:
    heavy = replace(DATUMS[10], advantages=np.full_like(DATUMS[10].advantages, 1e25))
    error = assert_refused(two_ranks, work, expected, NOWHERE, [*DATUMS[:10], heavy, DATUMS[11]])
    assert isinstance(error, InvalidRequest)
    assert error.message.startswith("input 10 (datum 10): its gradient is not finite")


SPOTS = {
    "the layers of an adapter": "trainer.engine.base_model.BaseModel.adapter",
    "a model that comes back": "trainer.engine.residency.ResidentSessions.get",
    "what is bound": "trainer.engine.base_model.BaseModel.bind",
    "what a pass keeps": "trainer.engine.base_model.saved_bytes",
    "the tokens of a turn": "trainer.engine.base_model.build_pack",
    "the shards' gradients": "trainer.distributed.ordered_sum.OrderedSum.__init__",
    "their exchange": "trainer.distributed.ordered_sum._Exchange.__init__",
    "the gradient": "trainer.engine.session.Session.add_gradient",
    "a canary": "trainer.engine.engine.compute_canary",
    "a step": "trainer.engine.engine.adamw_step",
}
"""What takes memory, outside of passes."""


def out_of_memory_once(group: RankGroup, work: Work, rank: int, spot: str) -> tuple[int, str]:
    """How many calls were refused, of which each is made until it is not, and the digest after them."""
    engine = engine_on_shared_base(work, group)
    with pytest.MonkeyPatch.context() as patch:
        if group.rank == rank:
            _spoil(patch, spot)
        if group.rank:
            follow(engine, group)
            return 0, digest(engine)
        leading, num_refused = DistributedEngine(engine, group), 0
        calls = [
            partial(leading.open, MODEL, LORA, None, None),
            partial(leading.holds, MODEL),
            partial(leading.forward_backward, MODEL, DATUMS, LOSS),
            partial(leading.forward_backward, MODEL, DATUMS, LOSS),
            partial(leading.snapshot, MODEL),
            partial(leading.optim_step, MODEL, ADAM),
        ]
        for call in calls:
            while True:
                try:
                    call()
                    break
                except torch.OutOfMemoryError:
                    num_refused += 1
        leading.end()
        return num_refused, digest(engine)


def _spoil(patch: pytest.MonkeyPatch, spot: str) -> None:
    original, calls = pkgutil.resolve_name(spot), itertools.count()

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no memory")
        return found

    patch.setattr(spot, spoilt)


@pytest.mark.parametrize("spot", SPOTS.values(), ids=SPOTS)
def test_a_rank_without_memory_makes_all_refuse_between_passes(
    two_ranks: RankProcesses, work: Work, expected: str, spot: str
) -> None:
    assert two_ranks.run(out_of_memory_once, work, 1, spot) == [(1, expected), (0, expected)]


def files_refused(group: RankGroup, work: Work, folder: Path) -> str:
    """Rank 0 reads files that are no checkpoint; the group goes on."""
    engine = engine_on_shared_base(work, group)
    if group.rank:
        follow(engine, group)
        return digest(engine)
    leading = DistributedEngine(engine, group)
    leading.open(MODEL, LORA, None, None)
    with pytest.raises(CorruptCheckpoint):
        leading.open(OTHER, LORA, folder, folder)
    assert leading.holds(MODEL)
    assert not leading.holds(OTHER)
    leading.end()
    return digest(engine)


def test_files_that_are_no_checkpoint_are_refused_by_all(two_ranks: RankProcesses, work: Work, tmp_path: Path) -> None:
    one, other = two_ranks.run(files_refused, work, tmp_path)
    assert one == other


@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_without_memory_is_named(two_ranks: RankProcesses, work: Work, expected: str, rank: int) -> None:
    fault = Fault(rank, "forward", MemoryError("Unable to allocate 9 GiB"))
    assert isinstance(assert_refused(two_ranks, work, expected, fault, DATUMS), MemoryError)


# What no rank can mend


@pytest.fixture
def short_lived() -> Iterator[RankProcesses]:
    ranks = RankProcesses(2, SHORT_LIMIT_S)
    ranks.run(imported)
    ranks.answer_s = 5 * SHORT_LIMIT_S
    yield ranks
    ranks.close()


def imported(group: RankGroup) -> None:
    """This module, whose imports take one rank longer than another."""


def lost_by(group: RankGroup, at_rank: int, how: str) -> tuple[str, float]:
    """What the others are told, and after how long, when a rank leaves, stands still or leaves out a vote."""
    started = time.monotonic()
    if group.rank == at_rank:
        if how == "ends":
            os._exit(1)
        if how == "stands still":
            os.kill(os.getpid(), signal.SIGSTOP)
    try:
        for _ in range(1 if how == "leaves out a vote" and group.rank == at_rank else 2):
            with group.agreed():
                pass
        group.gathered(None)
        with group.agreed():
            pass
    except DeviceLost as lost:
        return lost.message, time.monotonic() - started
    raise AssertionError("nobody noticed")


@pytest.mark.parametrize("at_rank", [0, 1])
@pytest.mark.parametrize("how", ["ends", "stands still", "leaves out a vote"])
@pytest.mark.slow
def test_a_rank_that_is_gone_or_elsewhere_is_noticed(short_lived: RankProcesses, how: str, at_rank: int) -> None:
    outcomes = short_lived.outcomes(lost_by, at_rank, how)
    message, seconds = outcomes[1 - at_rank]
    assert "rank" in message
    assert seconds < 2 * SHORT_LIMIT_S
    if how != "leaves out a vote":
        assert isinstance(outcomes[at_rank], RankFailed)


def meets(group: RankGroup, at_rank: int, how: str) -> tuple[str, float]:
    """What a rank is told, and after how long, that waits for one which reads for longer than any collective may take,
    or is stopped, and is started again when the others have given it up."""
    started = time.monotonic()
    if group.rank == at_rank and how == "reads":
        time.sleep(2.5 * SHORT_LIMIT_S)
    elif group.rank == at_rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        with at_own_pace(group):
            pass
    except RanksLost as lost:
        return lost.message, time.monotonic() - started
    return "met", time.monotonic() - started


@pytest.mark.parametrize("at_rank", [0, 1])
@pytest.mark.slow
def test_ranks_wait_for_one_that_loads_slowly(short_lived: RankProcesses, at_rank: int) -> None:
    for said, seconds in short_lived.run(meets, at_rank, "reads"):
        assert said == "met"
        assert seconds > 2 * SHORT_LIMIT_S


@pytest.mark.parametrize("at_rank", [0, 1])
@pytest.mark.slow
def test_a_rank_that_is_stopped_while_it_loads_is_named(short_lived: RankProcesses, at_rank: int) -> None:
    outcomes = short_lived.outcomes(meets, at_rank, "is stopped")
    said, seconds = outcomes[1 - at_rank]
    if at_rank == 0:  # whose process has the store here, as the agent has elsewhere
        assert re.match(r"rank 1 \(pid \d+ on .+\) has not reached the other ranks for 3 s: ", said)
    else:
        assert re.match(
            r"rank 1 of 2 \(pid \d+ on .+\) has not been heard of for 3 s: see whether it was stopped", said
        )
    assert seconds < 2 * SHORT_LIMIT_S
    assert isinstance(outcomes[at_rank], RankFailed)


def too_late(group: RankGroup, work: Work) -> str:
    """What a rank ends of, when rank 1 comes to the sum of a pass after the others have given it up."""
    engine = engine_of(work, group)
    if group.rank:
        ordered_sum.fault_point = lambda _: time.sleep(1.3 * SHORT_LIMIT_S)
    try:
        if group.rank:
            follow(engine, group)
        leading = DistributedEngine(engine, group)
        leading.open(MODEL, LORA, None, None)
        leading.forward_backward(MODEL, DATUMS, LOSS)
    except DeviceLost as lost:
        return lost.message
    raise AssertionError("nobody noticed")


@pytest.mark.slow
def test_a_rank_that_comes_to_a_sum_too_late_ends_its_group(short_lived: RankProcesses, work: Work) -> None:
    """All ranks fail alike then, and the call is not to blame."""
    assert all("rank of this trainer is gone" in message for message in short_lived.run(too_late, work))


def parted(group: RankGroup, work: Work) -> str:
    """A rank whose weights are others' by one bit."""
    engine = engine_of(work, group)
    try:
        if group.rank:
            follow(engine, group)
        leading = DistributedEngine(engine, group)
        leading.open(MODEL, LORA, None, None)
        weights = engine._sessions.get(MODEL).weights
        weights[0] = torch.nextafter(weights[0], torch.tensor(9.0))
        leading.forward_backward(MODEL, DATUMS, LOSS)
        leading.optim_step(MODEL, ADAM)
    except DeviceLost as lost:
        return lost.message
    raise AssertionError("nobody noticed")


def ended(group: RankGroup, work: Work, fault: Fault) -> str:
    """What this rank ends of, when one's device fails in a pass; rank 0 goes on as a worker does that gives it up."""
    hooked = fault if fault.rank == group.rank else replace(fault, where="nowhere")
    engine = engine_of(work, group, hooked.before_turn)
    leading = DistributedEngine(engine, group)
    try:
        with spoilt(engine, hooked, hooked.rank):
            if group.rank:
                follow(engine, group)
            leading.open(MODEL, LORA, None, None)
            leading.forward_backward(MODEL, DATUMS, LOSS)
            leading.forward_backward(MODEL, DATUMS, LOSS)
    except DeviceLost as lost:
        if group.rank == 0:
            leading.close(MODEL)
            with pytest.raises(DeviceLost):
                leading.holds(MODEL)
        return lost.message
    raise AssertionError("nobody noticed")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_device_that_fails_ends_its_group(two_ranks: RankProcesses, work: Work, rank: int) -> None:
    fault = Fault(rank, "backward", torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert all("illegal memory access" in message for message in two_ranks.run(ended, work, fault))


def test_ranks_that_have_parted_end(two_ranks: RankProcesses, work: Work) -> None:
    assert all("differ after optim_step" in message for message in two_ranks.run(parted, work))


def sent(group: RankGroup, refusals: list[HeadwayError]) -> list[HeadwayError]:
    """What rank 1 reads of them."""
    return list(group.gathered(refusals)[1 - group.rank])


def test_refusals_arrive_as_they_were(two_ranks: RankProcesses) -> None:
    kinds = [kind for kind in HeadwayError.__subclasses__() if kind.__module__ == HeadwayError.__module__]
    assert InvalidRequest in kinds
    for arrived in two_ranks.run(sent, [kind("a sentence") for kind in kinds]):
        assert [(type(error), error.message) for error in arrived] == [(kind, "a sentence") for kind in kinds]
