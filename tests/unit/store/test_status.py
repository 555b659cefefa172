"""`headway status` as an operator meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from sqlalchemy import func, update

from store.planes.registration import fall_silent, give_up, register_sampler
from store.tables import CheckpointRow, ClientSessionRow, ModelRow, OperationRow, SamplerAdapterRow
from tests.conftest import heed_interrupts
from tests.unit.store.conftest import Estate
from tests.unit.store.test_commands import headway


def busy(estate: Estate) -> None:
    """A model with a step and an operation that waits; a trainer with its lease; a sampler with two adapters."""
    node = estate.step()
    estate.operation("forward_backward", state="queued")
    estate.lease()
    with estate.database.session() as session:
        values = {"metrics": {"kl_sampling_trainer:mean": 0.125}, "mean_reward": 0.5}
        session.execute(update(CheckpointRow).where(CheckpointRow.id == node).values(values))
        sampler = register_sampler(session, estate.world.base_id, "http://nowhere", "local")
        for name, state in (("hw-a", "loaded"), ("hw-b", "failed")):
            row = SamplerAdapterRow(sampler_id=sampler, adapter=name, state=state, at=func.clock_timestamp())
            session.add(row)


def test_json_tells_everything(estate: Estate):
    busy(estate)
    found: dict[str, Any] = json.loads(headway(estate, "status", "--json").stdout)
    trainers = [plane for plane in found["planes"] if plane["plane"] == "trainer"]
    assert sorted(plane["num_held"] for plane in trainers) == [0, 1]
    (sampler,) = [plane for plane in found["planes"] if plane["plane"] == "sampler"]
    assert (sampler["state"], sampler["num_held"], sampler["num_failed"]) == ("live", 1, 1)
    (fork,) = [model for model in found["models"] if model["model"] == "fork"]
    assert (fork["team"], fork["base"], fork["step"], fork["num_queued"]) == ("reds", "base", 1, 1)
    assert (fork["reward_mean"], fork["kl"], fork["entropy"]) == (0.5, 0.125, None)
    assert found["disk"]["free"] > 0
    assert 0 <= sampler["silent_s"] < 10


def test_tables_show_what_waits_and_how_many_models_are_left_out(estate: Estate):
    busy(estate)
    shown = headway(estate, "status", "--max-models", "1")
    assert shown.exit_code == 0, shown.output
    for word in ("Servers, trainers, samplers and runners", "fork", "Models (1 of 2)"):
        assert word in shown.stdout, shown.stdout


def test_a_run_that_saved_nothing_is_shown_while_there_is_work_for_it(estate: Estate):
    run = {"session_id": "s", "session_index": 0, "serves_head": False, "served_checkpoint_id": None}

    def shown() -> bool:
        return any(one["model"] == "fork" for one in json.loads(headway(estate, "status", "--json").stdout)["models"])

    with estate.database.session() as session:
        session.add(ClientSessionRow(id="s", team_id=estate.world.team_id))
        session.flush()
        session.execute(update(ModelRow).where(ModelRow.id == estate.world.model_id).values(run))
    assert not shown()
    estate.operation("forward_backward", state="queued")
    assert shown()
    with estate.database.session() as session:
        session.execute(update(OperationRow).values(state="superseded"))
    assert not shown()
    estate.lease()
    assert shown()
    with estate.database.session() as session:
        session.execute(update(ModelRow).where(ModelRow.id == estate.world.model_id).values(removed_at=func.now()))
    assert not shown()


def test_a_sampler_in_trouble_is_shown_with_the_reason_also_when_it_gave_up_until_another_follows(estate: Estate):
    with estate.database.session() as session:
        sampler = register_sampler(session, estate.world.base_id, "http://nowhere", "vllm")
        fall_silent(session, sampler, "vLLM is being started again")
    assert "is silent: vLLM is being started again" in headway(estate, "status").stdout
    with estate.database.session() as session:
        give_up(session, sampler, "vLLM died 5 times in a row: head size 16 is not supported")
    assert "is stopped: vLLM died 5 times in a row: head size 16" in " ".join(headway(estate, "status").stdout.split())
    (shown,) = [plane for plane in json.loads(headway(estate, "status", "--json").stdout)["planes"] if plane["trouble"]]
    assert (shown["plane"], shown["state"]) == ("sampler", "stopped")
    with estate.database.session() as session:
        register_sampler(session, estate.world.base_id, "http://nowhere", "vllm")
    assert "vLLM died" not in headway(estate, "status").stdout


def test_watch_looks_again_until_ctrl_c_and_ends_cleanly(estate: Estate):
    url = estate.database.url.render_as_string(hide_password=False)
    environment = {**os.environ, "HEADWAY_DATABASE_URL": url, "HEADWAY_DATA_DIR": str(estate.folder)}
    command = [sys.executable, "-m", "cli", "status", "--watch", "--json", "--every-s", "0.2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, preexec_fn=heed_interrupts, **streams)
    assert process.stdout is not None
    before = json.loads(process.stdout.readline())
    assert [model["num_queued"] for model in before["models"]] == [0, 0]
    estate.operation("forward_backward", state="queued")
    queued = [0]
    while not any(queued):
        queued = [model["num_queued"] for model in json.loads(process.stdout.readline())["models"]]
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")


def test_a_database_that_is_away_is_said(estate: Estate):
    os.environ.pop("HEADWAY_DATABASE_URL", None)
    gone = estate.database.url.set(port=1, host="127.0.0.1", query={}).render_as_string(hide_password=False)
    shown = headway(estate, "status", "--database-url", gone)
    assert shown.exit_code == 1
    assert "the database does not answer" in shown.stderr
