"""A trainer of several ranks, started as a user starts it: it trains, is stopped, dies, and others go on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from store.database import Database
from store.tables import ModelRow
from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import step
from tests.e2e.test_headway_command import headway
from tests.e2e.test_training import fixed_batch
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


def listening(pids: Sequence[int]) -> set[str]:
    """Addresses on which these processes take connections, as hexadecimal digits."""
    links = (os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir())
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_s(pid: int) -> float:
    """Seconds that this process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_killed_rank_ends_all_and_a_trainer_of_another_size_goes_on_with_the_same_bits(site: Site):
    group = site.start(*TWO_RANKS)
    ranks = ranks_of(group)
    assert listening([group.pid, *ranks]) == {"0100007F"}, "only this host can connect to the ranks"
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

    site.fork(*SMALL_PASSES)
    step = site.ask(site.models[0], "optim_step", STEP)
    for payload in (batch(8), batch(300)):
        site.ask(site.models[1], "forward_backward", payload)
    undisturbed = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(step) and site.is_done(undisturbed))
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])


@pytest.mark.slow
def test_ranks_told_to_stop_hand_their_pass_to_another_at_once(site: Site):
    group, _ = site.start(*TWO_RANKS), site.start(*SMALL_PASSES)
    ranks = ranks_of(group)
    long = batch(20_000)  # longer than all that follows, on any machine
    passes = {model_id: site.ask(model_id, "forward_backward", long) for model_id in site.models}
    site.until(lambda: group.pid in map(site.holder_pid, site.models))
    (handed,) = [model_id for model_id in site.models if site.holder_pid(model_id) == group.pid]
    group.send_signal(signal.SIGTERM)
    took_s = site.until(lambda: site.holder_pid(handed) is None)
    print(f"handed back {took_s * 1000:.0f} ms after SIGTERM")  # noqa: T201
    assert group.wait(10) == 0
    assert all(map(is_gone, ranks))
    assert "stop_overdue" not in site.log(), "it was interrupted, and not cut off after --stop-grace"
    assert site.now(passes[handed]).attempts == 0, "nothing died of it"
    assert '"event": "rank_failed"' not in site.log(), "rank 0 sent the other home"


@pytest.mark.slow
def test_ranks_without_work_end(site: Site):
    group = site.launch(*TWO_RANKS, "--idle-exit-seconds", "0.5")
    assert group.wait(60) == 0
    assert '"event": "rank_failed"' not in site.log()


@pytest.mark.slow
@pytest.mark.parametrize("is_busy", [True, False])
def test_rank_0_is_killed_and_its_lease_waits_for_nobody(site: Site, is_busy: bool):
    group = site.start(*TWO_RANKS)
    ranks = ranks_of(group)
    first = site.ask(site.models[0], "forward_backward", batch(3000 if is_busy else 4))
    site.until(lambda: site.is_running(first) if is_busy else site.is_done(first))
    os.kill(ranks[0], signal.SIGKILL)
    assert group.wait(10) == 1
    assert site.log().endswith("headway: rank 0 of 2 was killed by SIGKILL; the others ended\n")
    assert all(map(is_gone, ranks))
    assert site.holder_pid(site.models[0]) is None


@pytest.mark.slow
def test_ranks_do_not_outlive_a_launcher_that_was_killed(site: Site):
    group = site.start(*TWO_RANKS)
    ranks = ranks_of(group)
    long = site.ask(site.models[0], "forward_backward", batch(3000))
    site.until(lambda: site.is_running(long))
    group.kill()
    took_s = site.until(lambda: all(map(is_gone, ranks)), 10)
    print(f"gone {took_s:.2f} s after their launcher")  # noqa: T201
    assert took_s < 3.0
    assert site.holder_pid(site.models[0]) is None, "rank 0 handed its lease back"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_is_the_end_of_its_group(site: Site, rank: int):
    """A collective may take 3 s under leases of 4."""
    group = site.start(*TWO_RANKS, "--lease-ttl", "4", "--stop-grace", "0")
    ranks = ranks_of(group)
    used_s = cpu_s(ranks[1])
    site.ask(site.models[0], "forward_backward", batch(5000))
    site.until(lambda: cpu_s(ranks[1]) > used_s + 1, timeout_s=60)  # both are in the middle of it
    started = time.monotonic()
    os.kill(ranks[rank], signal.SIGSTOP)
    assert group.wait(30) == 1
    print(f"ended {time.monotonic() - started:.1f} s after it stood still")  # noqa: T201
    noticed = rf"(a rank of this trainer is gone|rank {rank} of 2 \(pid {ranks[rank]} on \S+\) has not been heard of)"
    assert re.search(rf"\nheadway: rank {1 - rank} of 2 ended with status 1: {noticed}", site.log())
    assert all(map(is_gone, ranks))
    assert site.holder_pid(site.models[0]) is None


@pytest.mark.slow
def test_a_rank_0_that_stands_still_between_calls_is_missed_and_one_that_waits_is_not(site: Site):
    group = site.start(*TWO_RANKS, "--lease-ttl", "4", "--stop-grace", "0")
    ranks = ranks_of(group)
    step = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(step))
    with psycopg.connect(site.url) as connection:
        connection.execute("lock table operations, trainers, model_leases in access exclusive mode")
        time.sleep(8)  # rank 0 waits for the database; ranks are missed after 3 s
    time.sleep(1)
    assert not any(map(is_gone, ranks))
    os.kill(ranks[0], signal.SIGSTOP)
    assert group.wait(30) == 1
    assert re.search(
        rf"\nheadway: rank 1 of 2 ended with status 1: rank 0 of 2 \(pid {ranks[0]} on \S+\) has not been heard of for "
        "[34] s: see whether it was stopped",
        site.log(),
    )
    assert all(map(is_gone, ranks))
    assert site.holder_pid(site.models[0]) is None


def two_hosts(site: Site) -> list[subprocess.Popen[bytes]]:
    """A torchrun each, as on two machines."""
    port = free_port()
    rendezvous = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test")
    endpoint = ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1")
    torchrun = ("-m", "torch.distributed.run", *rendezvous, *endpoint, "-m", "trainer.main")
    hosts = [site.launch(*SMALL_PASSES, command=torchrun) for _ in range(2)]
    site.until(lambda: site.num_ready() == 1)
    return hosts


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_among_two_that_is_told_to_stop_has_all_stop_and_hand_back(site: Site, rank: int):
    hosts = two_hosts(site)
    ranks = {int(environment_of(pid)["RANK"]): host for host in hosts for pid in ranks_of(host)}
    long = site.ask(site.models[0], "forward_backward", batch(20_000))
    site.until(lambda: site.holder_pid(site.models[0]) is not None)
    ranks[rank].send_signal(signal.SIGTERM)
    took_s = site.until(lambda: site.holder_pid(site.models[0]) is None, timeout_s=15)
    print(f"handed back {took_s:.1f} s after SIGTERM to the host of rank {rank}")  # noqa: T201
    for host in hosts:
        host.wait(30)
    assert site.num_ready() == 0
    assert site.now(long).attempts == 0, "nothing died of it"
    assert '"event": "rank_failed"' not in site.log()


@pytest.mark.slow
def test_two_hosts_make_one_group_by_torchrun(site: Site):
    hosts = two_hosts(site)
    site.ask(site.models[0], "forward_backward", batch(8))
    step = site.ask(site.models[0], "optim_step", STEP)
    site.until(lambda: site.is_done(step))
    for host in hosts:
        host.send_signal(signal.SIGTERM)
    for host in hosts:
        host.wait(30)  # torchrun's own status says that it got a signal
    assert site.num_ready() == 0
    assert '"event": "rank_failed"' not in site.log()

    site.start(*SMALL_PASSES)
    site.ask(site.models[1], "forward_backward", batch(8))
    alone = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(alone))
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"model_type": None}, "Unrecognized model in {weights}."),
        ({"hidden_size": 65536, "intermediate_size": 262144}, "{weights} takes [0-9.]+ GB of each of 2 ranks before"),
    ],
    ids=["unknown", "too large"],
)
def test_a_base_that_does_not_load_is_refused_by_all_ranks_with_the_reason(
    site: Site, tiny_base: Path, tmp_path: Path, given: dict[str, Any], reason: str
):
    config = json.loads((tiny_base / "config.json").read_text()) | given
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value}))
    with site.database.session() as session:
        session.get_one(ModelRow, site.base_id).weights = str(tmp_path)
    waiting = site.ask(site.models[0], "forward_backward", batch(4))
    group = site.launch(*TWO_RANKS)
    assert group.wait(60) == 1
    reason = reason.format(weights=re.escape(str(tmp_path)))
    assert re.search(f"\nheadway: rank [01] of 2 ended with status 1: {reason}[^\n]*\n$", site.log())
    assert "Traceback" not in site.log()
    shown = headway("status", "--database-url", site.url).stdout
    assert re.search(f"the last one could not start: {reason}", shown)
    assert site.now(waiting).attempts == 0, "it was never leased"


@pytest.mark.slow
def test_trainers_of_one_and_of_two_ranks_share_the_models_of_a_base(site: Site):
    """Each has a model; then the other gets it, with its gradients, and both end in the same bits."""
    group, single = site.start(*TWO_RANKS), site.start(*SMALL_PASSES)
    passes = [site.ask(model_id, "forward_backward", batch(600)) for model_id in site.models]
    site.until(lambda: all(map(site.is_running, passes)))
    holders = [site.holder_pid(model_id) for model_id in site.models]
    assert sorted(holders, key=str) == sorted([group.pid, single.pid], key=str)
    site.until(lambda: all(map(site.is_done, passes)))

    group.send_signal(signal.SIGTERM)
    assert group.wait(10) == 0
    step_each(site)
    group = site.start(*TWO_RANKS)
    single.send_signal(signal.SIGTERM)
    assert single.wait(10) == 0
    step_each(site)
    assert {site.holder_pid(model_id) for model_id in site.models} == {group.pid}
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])


def step_each(site: Site) -> None:
    """One more step on every model, by whoever has it or takes it."""
    for model_id in site.models:
        site.ask(model_id, "forward_backward", batch(8))
    steps = [site.ask(model_id, "optim_step", STEP) for model_id in site.models]
    site.until(lambda: all(map(site.is_done, steps)))


@pytest.mark.slow
def test_a_box_starts_a_group_anew_after_its_usual_pause(tiny_base: Path):
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--trainer-gpus", "2", "--no-runner").start()
        try:
            assert "float32 on 2 CPU ranks" in (box.data_dir / "up.log").read_text()
            batch, model_id = fixed_batch(box), box.fork("by-ranks")
            step(box, model_id, batch, group_size=4)
            killed = pid_of(box, rank=1)
            os.kill(killed, signal.SIGKILL)
            step(box, model_id, batch, group_size=4)
            assert pid_of(box, rank=1) != killed
            said = "trainer-tiny-arith ended with status 1; starting it again in 1 s: headway: rank 1 of 2 was killed"
            assert said in (box.data_dir / "up.log").read_text()
        finally:
            assert box.stop() == 0


def pid_of(box: Box, rank: int) -> int:
    """Of the trainer's rank in this box."""
    pids = [int(pid) for pid in subprocess.check_output(["pgrep", "-f", "cli trainer .*"]).split()]
    own = {"HEADWAY_DATA_DIR": str(box.data_dir), "RANK": str(rank)}
    (pid,) = [pid for pid in pids if own.items() <= environment_of(pid).items()]
    return pid
