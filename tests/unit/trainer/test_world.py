"""What a rank knows of itself from its environment, and what it leaves for whoever started it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trainer.distributed.last_words import last_words, leave_last_words
from trainer.distributed.world import LAUNCHER_PID, World
from trainer.settings import TrainerSettings

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x",
}


def test_a_process_without_a_rank_computes_alone():
    assert World.of({}) is None
    assert World.of({"RANK": "0"}) is None, "some launchers of other things set it"


def test_a_rank_knows_its_place_and_who_watches_it():
    assert World.of(TORCHRUN) == World(5, 8, 1, 4, os.getppid())
    assert World.of(TORCHRUN | {LAUNCHER_PID: "17"}) == World(5, 8, 1, 4, 17)


@pytest.mark.parametrize(
    "missing", ["LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"]
)
def test_ranks_of_another_launcher_are_refused(missing: str):
    some = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(ValueError, match=f"^RANK and WORLD_SIZE are set, and {missing} not, .*unset these two"):
        World.of(some)


@pytest.mark.parametrize(
    ("name", "num_gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 4, "cuda:1"), ("cuda", 2, "cuda:1"), ("cpu", 4, "cpu")],
)
def test_each_rank_has_its_own_gpu_where_there_are_some(name: str, num_gpus: int, device: str):
    assert World(5, 8, 1, 4).device(name, num_gpus) == device


@pytest.mark.parametrize(
    ("name", "num_gpus", "reason"),
    [
        ("auto", 1, "4 ranks want a GPU each, and this host has 1"),
        ("cuda", 0, "4 ranks want a GPU each, and this host has 0"),
        ("cuda:0", 8, "--device cuda:0 names one device"),
    ],
)
def test_ranks_that_would_share_a_gpu_are_refused(name: str, num_gpus: int, reason: str):
    with pytest.raises(ValueError, match=reason):
        World(5, 8, 1, 4).device(name, num_gpus)


def settings(**given: float) -> TrainerSettings:
    return TrainerSettings("postgresql://", "base", "file:///c", "file:///b", **given)


def test_leases_of_a_group_outlast_its_collectives():
    assert (settings().lease_ttl(of_group=False), settings().lease_ttl(of_group=True)) == (4.0, 300.0)
    assert settings().collective_limit_s == 225.0
    given = settings(lease_ttl_s=8.0)
    assert given.lease_ttl(of_group=False) == given.lease_ttl(of_group=True) == 8.0
    assert given.collective_limit_s == 6.0


def test_last_words_are_a_sentence_in_the_file_that_the_agent_reads(tmp_path: Path):
    path = tmp_path / "of this launch" / "0"
    leave_last_words(ValueError("no such base\nmore of it"), {"TORCHELASTIC_ERROR_FILE": str(path)})
    assert last_words(path) == "no such base"
    assert json.loads(path.read_text())["timestamp"] > 0
    leave_last_words(ValueError("nobody asked"), {"TORCHELASTIC_ERROR_FILE": ""})


def test_a_rank_that_cannot_write_ends_with_its_own_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    leave_last_words(ValueError("no such base"), {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "file" / "0")})
    assert last_words(tmp_path / "file" / "0") is None


@pytest.mark.parametrize("text", [None, "", "{"])
def test_no_last_words_are_none(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "0").write_text(text)
    assert last_words(tmp_path / "0") is None
