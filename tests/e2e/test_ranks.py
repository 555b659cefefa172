"""A trainer of several ranks, started as a user starts it: it trains, is stopped, dies, and others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.database import Database
from tests.e2e.trainer_site import SMALL_PASSES, STEP, Site, batch

TWO_RANKS = ("--gpus", "2", *SMALL_PASSES)


@pytest.fixture
def site(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, postgres_url, tiny_base, tmp_path)
    yield site
    site.close()


def ranks_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    """Their pids, by rank."""
    pids = [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(launcher.pid)]).split()]
    return sorted(pids, key=lambda pid: int(environment_of(pid)["RANK"]))


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_killed_rank_ends_all_and_a_trainer_of_another_size_goes_on_with_the_same_bits(site: Site):
    group = site.start(*TWO_RANKS)
    ranks = ranks_of(group)
    site.ask(site.models[0], "forward_backward", batch(8))
    long = site.ask(site.models[0], "forward_backward", batch(300))
    site.until(lambda: site.is_running(long))
    started = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    assert group.wait(10) == 1
    print(f"the group ended in {time.monotonic() - started:.2f} s")  # noqa: T201
    assert site.log().endswith("headway: rank 1 of 2 was killed by SIGKILL; the others ended\n")
    assert "Traceback" not in site.log()
    assert all(map(is_gone, ranks))
    assert site.holder_pid(site.models[0]) is None, "the lease was handed back"

    site.start(*SMALL_PASSES)
    step = site.ask(site.models[0], "optim_step", STEP)
    for payload in (batch(8), batch(300)):
        site.ask(site.models[1], "forward_backward", payload)
    undisturbed = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(step) and site.is_done(undisturbed))
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])
