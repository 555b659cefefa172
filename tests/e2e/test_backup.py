"""A service moves to another machine while it trains, and goes on with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, step
from tests.e2e.test_headway_command import headway
from tests.e2e.test_training import checkpoint_files, fixed_batch

pytestmark = pytest.mark.slow


def test_a_restored_service_goes_on_with_the_same_bits(own_box: Box, tiny_base: Path):
    own_box.start()
    batch = fixed_batch(own_box)
    model_id = own_box.fork("moves")
    step(own_box, model_id, batch, group_size=4)
    own_box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})

    backup, here = own_box.data_dir.parent / "moved.tar", ("--data-dir", str(own_box.data_dir))
    for command in (("backup", "--to", str(backup)), ("gc", "--dry-run")):
        done = headway(*command, *here)
        assert done.returncode == 0, done.stdout + done.stderr
        assert own_box.env["HUD_API_KEY"] not in done.stdout + done.stderr
    expected = checkpoint_files(own_box, model_id, optim_step(own_box, model_id))
    answer = greedy(own_box, "moves")
    assert own_box.stop() == 0

    other = Box(own_box.data_dir.parent / "other", tiny_base)
    there = ("--data-dir", str(other.data_dir))
    for command in (("restore", "--from", str(backup)), ("doctor", "--files"), ("verify",)):
        done = headway(*command, *there)
        assert done.returncode == 0, done.stdout + done.stderr
    other.start()
    try:
        assert checkpoint_files(other, model_id, optim_step(other, model_id)) == expected
        assert greedy(other, "moves")[0] == answer[0]
    finally:
        other.stop()


def optim_step(box: Box, model_id: str) -> str:
    """The pending gradient's step."""
    return box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})["checkpoint_id"]
