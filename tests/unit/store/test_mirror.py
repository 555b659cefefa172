"""Step metrics in TensorBoard and MLflow, read back with their own libraries.

Tests import MLflow, which takes seconds: every process of the tests imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from server.mirror import open_target
from server.mirror.base import Target, run_name
from server.mirror.following import Mirror
from store.database import Database
from store.history import trained_models
from store.tables import CheckpointRow, ModelRow
from tests.unit.store.conftest import Estate
from tests.unit.store.test_commands import headway
from wire.errors import Conflict, NotFound

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Curve = list[tuple[int, float]]


def measured_step(estate: Estate, reward: float) -> Any:
    node = estate.step()
    metrics = {"reward_mean": reward, "loss:sum": -reward}
    with estate.database.session() as session:
        values = {"metrics": metrics, "learning_rate": 0.5, "num_tokens": 10}
        session.execute(update(CheckpointRow).where(CheckpointRow.id == node).values(values))
    return node


def tensorboard_curve(estate: Estate, name: str) -> Curve:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted((estate.folder / "there").glob("*/events.out.tfevents.*"))
    events = [event for path in files for event in EventFileLoader(str(path)).Load()]
    return [(e.step, _scalar(value)) for e in events for value in e.summary.value if value.tag == name]


def _scalar(value: Any) -> float:
    return value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value


def mlflow_curve(estate: Estate, name: str) -> Curve:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{estate.folder}/there.db")
    (experiment,) = client.search_experiments(filter_string="name = 'headway'")
    (run,) = client.search_runs([experiment.experiment_id])
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def address(estate: Estate, kind: str) -> str:
    return (
        f"tensorboard:{estate.folder}/there" if kind == "tensorboard" else f"mlflow:sqlite:///{estate.folder}/there.db"
    )


CURVES: dict[str, Callable[[Estate, str], Curve]] = {"tensorboard": tensorboard_curve, "mlflow": mlflow_curve}


def mirror(estate: Estate, target: Target, *names: str) -> None:
    """What a new process does."""
    Mirror(estate.database, target, "somewhere", names).catch_up()
    target.close()


@pytest.mark.parametrize("kind", CURVES)
def test_steps_are_copied_once_and_a_rollback_shows_in_the_tree_step(estate: Estate, kind: str):
    first = measured_step(estate, 0.25)
    measured_step(estate, 0.5)
    mirror(estate, open_target(address(estate, kind), estate.folder))
    estate.set_head(first)
    measured_step(estate, 0.75)
    for _ in range(2):  # the second finds nothing new
        mirror(estate, open_target(address(estate, kind), estate.folder))
    curve = CURVES[kind]
    assert curve(estate, "reward_mean") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert curve(estate, "tree_step") == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert curve(estate, "loss:sum") == [(1, -0.25), (2, -0.5), (3, -0.75)]
    assert curve(estate, "learning_rate")[0] == (1, 0.5)


def test_a_record_that_was_torn_by_a_kill_is_written_again(estate: Estate):
    for reward in (0.25, 0.5):
        measured_step(estate, reward)
    mirror(estate, open_target(address(estate, "tensorboard"), estate.folder))
    (path,) = (estate.folder / "there").glob("*/events.*")
    path.write_bytes(path.read_bytes()[:-7])
    mirror(estate, open_target(address(estate, "tensorboard"), estate.folder))
    assert tensorboard_curve(estate, "reward_mean") == [(1, 0.25), (2, 0.5)]


def test_a_step_that_mlflow_has_half_of_is_completed(estate: Estate, monkeypatch: pytest.MonkeyPatch):
    from mlflow.tracking import MlflowClient

    measured_step(estate, 0.25)
    target = open_target(address(estate, "mlflow"), estate.folder)
    whole = MlflowClient.log_batch

    def killed_half_way(client: MlflowClient, run_id: str, metrics: Any) -> None:
        whole(client, run_id, metrics=metrics[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "log_batch", killed_half_way)
    with pytest.raises(KeyboardInterrupt):
        mirror(estate, target)
    monkeypatch.undo()
    measured_step(estate, 0.5)
    mirror(estate, open_target(address(estate, "mlflow"), estate.folder))
    for name in ("reward_mean", "loss:sum", "tree_step", "learning_rate"):
        assert [step for step, _ in mlflow_curve(estate, name)] == [1, 2], name


def test_a_forks_root_is_not_a_step_of_its_own(estate: Estate):
    source = measured_step(estate, 0.25)
    estate.fork(source)
    with estate.database.session() as session:
        assert {m.slug: m.num_steps for m in trained_models(session)} == {"fork": 1, "other": 0}


def test_names_of_models_do_not_leave_the_folder(estate: Estate):
    measured_step(estate, 0.25)
    with estate.database.session() as session:
        session.get_one(ModelRow, estate.world.model_id).slug = "../../etc/ä b"
        (model,) = trained_models(session)
    assert run_name(model) == f"_.._etc_b-{model.id.hex[:8]}"
    mirror(estate, open_target(address(estate, "tensorboard"), estate.folder))
    assert [path.name for path in (estate.folder / "there").iterdir()] == [run_name(model)]


def test_models_are_chosen_by_name(estate: Estate):
    estate.fork(measured_step(estate, 0.25))
    with estate.database.session() as session:
        assert [m.slug for m in trained_models(session, ["REDS/Fork"])] == ["fork"]
        with pytest.raises(NotFound, match="'nobody'"):
            trained_models(session, ["nobody"])


def test_a_second_process_for_the_same_target_is_refused(estate: Estate, tmp_path: Path):
    first, second = (Mirror(Database(url), open_target(f"tensorboard:{tmp_path}", tmp_path), "here") for url in
                     [estate.database.url.render_as_string(hide_password=False)] * 2)  # fmt: skip

    def meanwhile(*_: object) -> None:
        with pytest.raises(Conflict, match="another process mirrors to here"):
            second.follow(1, lambda *_: None, once=True)
        heard.append(True)

    heard: list[bool] = []
    measured_step(estate, 0.25)
    first.follow(1, meanwhile, once=True)
    assert heard
    second.follow(1, lambda *_: None, once=True)  # the claim is given back


def test_the_command_says_what_it_did_and_what_it_needs(estate: Estate):
    measured_step(estate, 0.25)
    done = headway(estate, "mirror", "--to", address(estate, "tensorboard"), "--once")
    assert (done.exit_code, done.stdout) == (0, "fork: 1 steps\n")
    refused = headway(estate, "mirror", "--to", "paper", "--once")
    assert refused.exit_code == 1
    assert "--to wants tensorboard:DIR" in refused.stderr
