"""A service is upgraded one process at a time, while it trains and answers; and the upgrade is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.commands.keys import create_key
from store.embedded import EmbeddedPostgres
from store.schema import newest_revision, read_schema
from tests.conftest import database_folder
from tests.e2e.box import point_sdk_at
from tests.e2e.conftest import TINY_BASE
from tests.e2e.deployed import deploy
from tests.e2e.hosted import run_hosted, task
from tests.e2e.rollouts import chat, group
from tests.e2e.test_training import checkpoint_files
from tests.upgrades.fleet import BASE, Fleet, Traffic
from tests.upgrades.last_release import check_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Of the release before, with the schema that it made."""
    old = check_out(tmp_path)
    with database_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres")
        fleet = Fleet(tmp_path, postgres.url, old)
        try:
            fleet.run("old", "migrate", "--base", f"{BASE}={TINY_BASE.resolve()}")
            fleet.key = create_key(postgres.url, team="default", name="upgrade", role="admin")
            yield fleet
        finally:
            fleet.close()
            postgres.stop()


def gradient(fleet: Fleet, model_id: str, batch: list[dict[str, Any]]) -> None:
    fleet.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})


def step(fleet: Fleet, model_id: str) -> dict[str, str]:
    """The files of the checkpoint that comes of the gradients before it."""
    done = fleet.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    return checkpoint_files(fleet, model_id, done["checkpoint_id"])  # type: ignore[arg-type]


def test_two_releases_share_a_database_and_train_the_same_bits(fleet: Fleet):
    old_server, old_sampler, old_trainer = (fleet.started("old", plane) for plane in ("server", "sampler", "trainer"))
    fleet.until(lambda: fleet.call("GET", "/v2/models")["items"] != [])
    batch = group(fleet, BASE, "12+30=?", seed=1)  # type: ignore[arg-type]
    model_id = fleet.fork("upgraded")
    gradient(fleet, model_id, batch)
    trained = [step(fleet, model_id)]

    with Traffic(lambda: chat(fleet, "upgraded")) as traffic:  # type: ignore[arg-type]
        fleet.run("new", "migrate")
        assert read_schema(fleet.database_url).revision == newest_revision()
        gradient(fleet, model_id, batch)
        trained.append(step(fleet, model_id))

        new_server = fleet.started("new", "server")
        fleet.rotation = [new_server]
        chat(fleet, "upgraded")  # a new server, an old sampler
        gradient(fleet, model_id, batch)  # an old trainer carries out what a new server logged
        fleet.rotation = [old_server, new_server]

        new_trainer = fleet.started("new", "trainer")
        old_trainer.stop()
        trained.append(step(fleet, model_id))  # a new trainer replays what an old one did

        fleet.started("new", "sampler")
        old_sampler.stop()
        fleet.rotation = [old_server]
        chat(fleet, "upgraded")  # an old server, a new sampler
        gradient(fleet, model_id, batch)  # a new trainer carries out what an old server logged
        fleet.rotation = [old_server, new_server]

        fleet.started("old", "trainer")
        new_trainer.stop()
        trained.append(step(fleet, model_id))  # and back: an old trainer replays what a new one did
        fleet.rotation = [new_server]
        old_server.stop()
        calls_before = traffic.num_calls
        fleet.until(lambda: traffic.num_calls > calls_before + 2)

    reference = fleet.fork("reference")
    for expected in trained:
        gradient(fleet, reference, batch)
        assert step(fleet, reference) == expected
    doctor = fleet.run("new", "doctor", "--files")
    assert "not ok" not in doctor
    assert "versions\tnote" in doctor


def test_runners_of_each_release_work_for_servers_of_the_other(fleet: Fleet):
    fleet.run("new", "migrate")
    servers = {release: fleet.started(release, "server") for release in ("old", "new")}
    fleet.started("old", "sampler")
    fleet.until(lambda: fleet.call("GET", "/v2/models")["items"] != [])
    key = create_key(fleet.database_url, team="default", name="runners", role="runner")
    for release, other in (("old", "new"), ("new", "old")):
        folder = str(fleet.data_dir / f"runner-{release}")
        given = ("--server", servers[other].url, "--data-dir", folder)
        runner = fleet.started(release, "runner", *given, HEADWAY_RUNNER_KEY=key)
        fleet.rotation = [servers[other]]
        point_sdk_at(fleet)  # type: ignore[arg-type]
        if release == "old":
            fleet.fork("played")
        built = deploy(fleet)  # type: ignore[arg-type]
        assert built["status"] == "SUCCEEDED", built
        job = asyncio.run(run_hosted("played", task(a=12, b=30), group=2))
        assert [run.trace.error for run in job.runs if run.grade.is_error] == []
        runner.stop()
