"""What the trainer's worker counts on in an engine (`wire.engine`): one suite for the real one on a tiny base, and for
those of tests, which count instead of computing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.unit.planes.test_cancellation import MicroBatches
from tests.unit.planes.test_kept_states import CountingEngineWithMoments
from tests.unit.planes.test_worker import CountingEngine
from tests.unit.trainer.tiny import LORA, tiny_model, trajectory, turn
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.conversion import to_datums
from wire.datums import Datum
from wire.engine import AdamParams, LossChoice
from wire.errors import HeadwayError, Interrupted, NotFound
from wire.trajectories import Batch

LOSS, ADAM = LossChoice("importance_sampling"), AdamParams(learning_rate=1e-2)
FIRST = to_datums(
    Batch([trajectory(turn([1, 2, 3], [4, 5])), trajectory(turn([1, 2, 3], [6]), reward=0.0)], group_size=2)
)
SECOND = to_datums(Batch([trajectory(turn([7, 8], [9])), trajectory(turn([7, 8], [1, 2]), reward=3.0)], group_size=2))
REFUSED = to_datums(Batch([trajectory(turn([1], [10_000]), reward=-1.0)]))
"""A token that no vocabulary has; and a reward that those which count refuse."""

Check = Callable[[], None]


def real_engine(check: Check) -> TrainingEngine:
    return TrainingEngine(BaseModel(tiny_model()), EngineSettings(threads=1), before_micro_batch=check)


def engine_of_micro_batches(check: Check) -> MicroBatches:
    engine = MicroBatches()
    engine.check = check
    return engine


ENGINES: dict[str, Callable[[Check], Any]] = {
    "real": real_engine,
    "counting": lambda _: CountingEngine(),
    "counting, with moments": lambda _: CountingEngineWithMoments(),
    "counting, in micro-batches": engine_of_micro_batches,
}
INTERRUPTIBLE = ["real", "counting, in micro-batches"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    return ENGINES[request.param](lambda: None)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any, UUID], dict[str, bytes]]:
    """A checkpoint of the model, by file."""

    def save(engine: Any, model: UUID) -> dict[str, bytes]:
        folder = tmp_path / uuid.uuid4().hex
        save_into(engine, model, folder)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    return save


def save_into(engine: Any, model: UUID, folder: Path) -> None:
    for part in ("adapter", "state"):
        (folder / part).mkdir(parents=True)
    engine.snapshot(model).write(folder / "adapter", folder / "state")


def new_model(engine: Any) -> UUID:
    model = uuid.uuid4()
    engine.open(model, LORA, None, None)
    return model


def trained(engine: Any, *batches: Sequence[Datum]) -> UUID:
    """A new model after a step on each of these."""
    model = new_model(engine)
    for batch in batches:
        engine.forward_backward(model, batch, LOSS)
        engine.optim_step(model, ADAM)
    return model


def test_a_step_moves_the_weights_and_equal_calls_give_equal_bits(engine, saved):
    fresh, one, other = new_model(engine), trained(engine, FIRST, SECOND), trained(engine, FIRST, SECOND)
    assert saved(engine, one) == saved(engine, other) != saved(engine, fresh)
    assert saved(engine, one) == saved(engine, one), "saving changes nothing"


def test_a_step_applies_all_gradients_since_the_last_one_and_clears_them(engine, saved, tmp_path):
    model = new_model(engine)
    engine.forward_backward(model, FIRST, LOSS)
    engine.forward_backward(model, SECOND, LOSS)
    engine.optim_step(model, ADAM)
    assert saved(engine, model) != saved(engine, trained(engine, FIRST))
    assert saved(engine, model) != saved(engine, trained(engine, SECOND))
    save_into(engine, model, tmp_path / "saved")
    restored = uuid.uuid4()
    engine.open(restored, LORA, tmp_path / "saved" / "adapter", tmp_path / "saved" / "state")
    assert saved(engine, restored) == saved(engine, model)
    for one in (model, restored):  # the restored one surely has no gradients
        engine.forward_backward(one, FIRST, LOSS)
        engine.optim_step(one, ADAM)
    assert saved(engine, restored) == saved(engine, model)


def test_a_snapshot_writes_what_a_save_would_have_written_then(engine, saved, tmp_path):
    model = trained(engine, FIRST)
    before = saved(engine, model)
    folders = [tmp_path / "snapshot" / part for part in ("adapter", "state")]
    for folder in folders:
        folder.mkdir(parents=True)
    snapshot = engine.snapshot(model)
    writing = threading.Thread(target=snapshot.write, args=folders)
    engine.forward_backward(model, SECOND, LOSS)
    engine.optim_step(model, ADAM)
    writing.start()
    after = saved(engine, model)
    engine.close(model)
    writing.join()
    written = {str(file.relative_to(tmp_path / "snapshot")): file.read_bytes() for file in files_of(folders)}
    assert written == before != after


def files_of(folders: list[Path]) -> list[Path]:
    return [file for folder in folders for file in folder.iterdir()]


def test_a_refused_pass_leaves_weights_gradients_and_moments_as_they_were(engine, saved):
    model, before = trained(engine, FIRST), saved(engine, trained(engine, FIRST))
    engine.forward_backward(model, SECOND, LOSS)
    with pytest.raises(HeadwayError):
        engine.forward_backward(model, REFUSED, LOSS)
    assert saved(engine, model) == before
    engine.optim_step(model, ADAM)
    assert saved(engine, model) == saved(engine, trained(engine, FIRST, SECOND))


def test_a_plan_that_is_given_is_that_of_the_engine_where_none_is(engine, saved):
    model = new_model(engine)
    engine.forward_backward(model, FIRST, LOSS, engine.plan(FIRST))
    engine.optim_step(model, ADAM)
    assert saved(engine, model) == saved(engine, trained(engine, FIRST))


def test_pictures_that_no_datum_names_are_ignored(engine, saved):
    one, other = trained(engine, FIRST), new_model(engine)
    engine.forward_backward(other, FIRST, LOSS, None, {bytes(32): b"no picture at all"})
    engine.optim_step(other, ADAM)
    assert saved(engine, one) == saved(engine, other)


def test_models_do_not_touch_each_other(engine, saved):
    untouched, model = trained(engine, FIRST), new_model(engine)
    before = saved(engine, untouched)
    engine.forward_backward(model, SECOND, LOSS)
    assert saved(engine, untouched) == before
    engine.optim_step(model, ADAM)
    engine.close(model)
    assert saved(engine, untouched) == before


def test_opening_again_replaces_what_was_held(engine, saved):
    model = trained(engine, SECOND)
    engine.forward_backward(model, SECOND, LOSS)
    engine.open(model, LORA, None, None)
    engine.forward_backward(model, FIRST, LOSS)
    engine.optim_step(model, ADAM)
    assert saved(engine, model) == saved(engine, trained(engine, FIRST))


def test_a_closed_model_is_forgotten_and_unknown_ones_may_be_closed(engine):
    model = new_model(engine)
    assert engine.holds(model)
    engine.close(model)
    engine.close(model)
    assert not engine.holds(model)


def test_an_unknown_model_is_not_found(engine, tmp_path):
    for call in (
        lambda model: engine.forward_backward(model, FIRST, LOSS),
        lambda model: engine.optim_step(model, ADAM),
        lambda model: save_into(engine, model, tmp_path / "saved"),
    ):
        with pytest.raises(NotFound):
            call(uuid.uuid4())


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_an_interrupted_pass_leaves_nothing(kind: str, saved):
    interrupting = False

    def check() -> None:
        if interrupting:
            raise Interrupted("somebody else's turn")

    engine = ENGINES[kind](check)
    model, expected = trained(engine, FIRST), saved(engine, trained(engine, FIRST, SECOND))
    interrupting = True
    with pytest.raises(Interrupted):
        engine.forward_backward(model, FIRST, LOSS)
    interrupting = False
    engine.forward_backward(model, SECOND, LOSS)
    engine.optim_step(model, ADAM)
    assert saved(engine, model) == expected
