"""`headway up --on-demand`: trainers come when there is work and go when there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import step
from tests.e2e.test_headway_command import headway
from tests.e2e.test_training import checkpoint_files, fixed_batch

pytestmark = pytest.mark.slow


@pytest.fixture
def on_demand_box(tiny_base: Path) -> Iterator[Box]:
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--on-demand", "--idle-exit-seconds", "1")
        yield box.start()
        if box.process is not None:
            assert box.stop() == 0


def readiness(box: Box) -> dict[str, Any]:
    reply = httpx.get(f"{box.url}/readyz", trust_env=False)
    assert reply.status_code == 200, reply.text
    return reply.json()["bases"][0]


def wait_until_no_trainer(box: Box) -> None:
    deadline = time.monotonic() + 60
    while readiness(box)["trainers"]:
        assert time.monotonic() < deadline, box.logs()
        time.sleep(0.2)


def test_trainers_come_and_go_with_the_work_and_change_no_bit(on_demand_box: Box, own_box: Box):
    wait_until_no_trainer(on_demand_box)
    said = readiness(on_demand_box)["shortage"]
    assert said.startswith("no trainer for base tiny-arith is alive since")
    shown = headway("status", "--data-dir", str(on_demand_box.data_dir)).stdout
    assert "no trainer for base" in shown.replace("\n", " ")

    batch = fixed_batch(on_demand_box)
    model_id = on_demand_box.fork("sparse")
    step(on_demand_box, model_id, batch, group_size=4)
    passed = {"inputs": batch, "group_size": 4}
    on_demand_box.call("POST", f"/v1/models/{model_id}/train/forward-backward", passed)
    wait_until_no_trainer(on_demand_box)
    last = on_demand_box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    started = (on_demand_box.data_dir / "logs" / "trainer-tiny-arith.log").read_text().count("trainer_ready")
    assert started == 3, "once to describe the base, once for each spell of work"

    own_box.start()
    always = own_box.fork("sparse")
    expected = [step(own_box, always, batch, group_size=4) for _ in range(2)][-1]
    assert checkpoint_files(on_demand_box, model_id, last["checkpoint_id"]) == checkpoint_files(
        own_box, always, expected["checkpoint_id"]
    )
