"""Real trainer processes on one database: they share models, stop, hang, die, and come when there is work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.database import Database
from store.planes.heartbeats import LEASE_TTL_S
from tests.e2e.trainer_site import SMALL_PASSES, STEP, Site, batch

pytestmark = pytest.mark.slow


@pytest.fixture
def site(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, postgres_url, tiny_base, tmp_path)
    yield site
    site.close()


def test_a_busy_trainer_cedes_a_waiting_model_to_a_free_one(site: Site):
    site.start(*SMALL_PASSES)
    short = site.ask(site.models[1], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    pid = site.holder_pid(site.models[1])
    # Longer than all that follows, on any machine; nobody waits for its end.
    long = site.ask(site.models[0], "forward_backward", batch(20_000))
    site.until(lambda: site.is_running(long))
    assert site.holder_pid(site.models[0]) == pid
    site.start(*SMALL_PASSES)
    step = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(step))
    assert not site.is_done(long)
    assert site.holder_pid(site.models[1]) != pid


def test_a_pass_that_nobody_waits_for_keeps_the_trainer_from_nobody_and_changes_no_bits(site: Site):
    site.start(*SMALL_PASSES)
    # Longer than all that follows, on any machine; nobody waits for its end.
    long = site.ask(site.models[0], "forward_backward", batch(20_000), is_awaited=False)
    site.until(lambda: site.is_running(long))
    short = site.ask(site.models[1], "forward_backward", batch(4))
    took_s = site.until(lambda: site.is_done(short))
    print(f"another model's pass is done after {took_s:.1f} s")  # noqa: T201
    assert not site.is_done(long)
    site.until(lambda: site.is_running(long))
    site.ask(site.models[0], "forward_backward", batch(4))
    steps = [site.ask(model_id, "optim_step", STEP) for model_id in site.models]
    site.until(lambda: all(site.is_done(step) for step in steps))
    assert (site.now(long).state, site.now(long).error_code) == ("superseded", "unacknowledged")
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])


@pytest.mark.parametrize("small", [True, False])
def test_a_trainer_told_to_stop_hands_its_pass_to_another_at_once(site: Site, small: bool):
    stopped = site.start(*(SMALL_PASSES if small else ("--stop-grace", "0.3", "--max-tokens-per-pass", "4000000")))
    short = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    site.start(*SMALL_PASSES)  # before the long pass, which may take no longer than a start
    long = site.ask(site.models[0], "forward_backward", batch(3000))
    site.until(lambda: site.is_running(long))
    assert site.holder_pid(site.models[0]) == stopped.pid
    stopped.send_signal(signal.SIGTERM)
    took_s = site.until(lambda: site.holder_pid(site.models[0]) not in (stopped.pid, None))
    print(f"taken over {took_s * 1000:.0f} ms after SIGTERM")  # noqa: T201
    assert took_s < 3.0
    assert stopped.wait(5) == 0
    assert site.now(long).attempts <= 1
    site.until(lambda: site.is_done(long))
    assert site.now(long).attempts == 1


def test_a_waiting_trainer_stops_at_once(site: Site):
    trainer = site.start()
    time.sleep(0.5)
    started = time.monotonic()
    trainer.send_signal(signal.SIGTERM)
    assert site.until(lambda: site.num_ready() == 0, 5) < 1.0
    assert trainer.wait(10) == 0
    print(f"gone in {time.monotonic() - started:.2f} s")  # noqa: T201


def test_a_killed_trainers_models_are_taken_over_when_its_lease_ends(site: Site):
    killed = site.start(*SMALL_PASSES)
    short = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    site.start(*SMALL_PASSES)
    killed.kill()
    step = site.ask(site.models[0], "optim_step", STEP)
    took_s = site.until(lambda: site.holder_pid(site.models[0]) not in (killed.pid, None))
    print(f"taken over {took_s:.2f} s after SIGKILL")  # noqa: T201
    assert took_s < LEASE_TTL_S + 0.5
    site.until(lambda: site.is_done(step))


def test_a_trainer_that_hung_cannot_write_when_it_goes_on(site: Site):
    hung = site.start(*SMALL_PASSES)
    short = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    long = site.ask(site.models[0], "forward_backward", batch(1000))
    site.until(lambda: site.is_running(long))
    time.sleep(0.1)
    os.kill(hung.pid, signal.SIGSTOP)
    site.start(*SMALL_PASSES)
    site.until(lambda: site.is_done(long))
    other = site.holder_pid(site.models[0])
    assert other != hung.pid
    os.kill(hung.pid, signal.SIGCONT)
    site.until(lambda: "lease_lost" in site.log())
    step = site.ask(site.models[0], "optim_step", STEP)
    site.until(lambda: site.is_done(step))
    assert site.holder_pid(site.models[0]) == other
    disturbed = site.head_files(site.models[0])

    for payload in (batch(4), batch(1000)):
        site.ask(site.models[1], "forward_backward", payload)
    alone = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(alone))
    assert disturbed == site.head_files(site.models[1])


def test_an_idle_trainer_ends_and_another_goes_on_with_the_same_bits(site: Site):
    for kind, payload in (("forward_backward", batch(8)), ("optim_step", STEP)):
        operation = site.ask(site.models[0], kind, payload)
        assert site.launch("--idle-exit-seconds", "0.5").wait(90) == 0
        assert site.is_done(operation)
    site.start()
    site.ask(site.models[1], "forward_backward", batch(8))
    step = site.ask(site.models[1], "optim_step", STEP)
    site.until(lambda: site.is_done(step))
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])
