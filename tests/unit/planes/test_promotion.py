"""A trainer's wait for samplers, with each policy, on a real database."""

from __future__ import annotations

import threading
import time
from uuid import UUID

import pytest

from store.database import Database
from store.notify import ADAPTER_LOADED, Listener
from store.planes.adapters import report_adapter
from store.planes.promotion_policy import PromotionPolicy
from store.planes.registration import fall_silent, register_sampler
from tests.unit.conftest import World
from trainer.worker.promotion import Promotion
from wire.errors import PromotionRejected, Unavailable

X = "hw-x"


@pytest.fixture
def samplers(database: Database, world: World) -> list[UUID]:
    with database.session() as session:
        return [register_sampler(session, world.base_id, f"http://127.0.0.1:{i}", "local") for i in range(3)]


@pytest.fixture
def listener(database: Database):
    listener = Listener(database.url.render_as_string(hide_password=False), ADAPTER_LOADED)
    yield listener
    listener.close()


@pytest.fixture
def wait(database: Database, world: World, listener: Listener):
    """Wait for the samplers; returns after how many seconds it was over."""

    def wait(policy: PromotionPolicy, timeout_s: float) -> float:
        started = time.monotonic()
        Promotion(database, listener, timeout_s, policy=policy).wait_until_loaded(world.base_id, X)
        return time.monotonic() - started

    return wait


def report(database: Database, sampler_id: UUID, error: str | None = None) -> None:
    with database.connection() as connection:
        report_adapter(connection, sampler_id, X, error)


@pytest.mark.parametrize("policy", PromotionPolicy)
def test_what_no_sampler_can_load_is_rejected_at_once_with_the_reason(policy, database, samplers, wait):
    for sampler_id in samplers:
        report(database, sampler_id, "lora_A has another shape")
    with pytest.raises(PromotionRejected, match="lora_A has another shape; the head stays"):
        wait(policy, 600)


@pytest.mark.parametrize("policy", PromotionPolicy)
def test_what_nobody_has_loaded_in_time_is_tried_again_and_says_what_the_others_said(policy, database, samplers, wait):
    report(database, samplers[0], "out of memory")
    with pytest.raises(Unavailable, match=r"within 1 s \(1 refused it: out of memory\)"):
        wait(policy, 1)


@pytest.mark.parametrize(("policy", "needed"), [("one", 1), ("quorum", 2), ("all", 3)])
def test_the_head_moves_as_soon_as_those_whom_the_policy_names_hold_it(policy, needed, database, samplers, wait):
    for sampler_id in samplers[: needed - 1]:
        report(database, sampler_id)
    reported: list[float] = []

    def last_one() -> None:
        time.sleep(0.4)
        reported.append(time.monotonic())
        report(database, samplers[needed - 1])

    thread = threading.Thread(target=last_one)
    thread.start()
    wait(PromotionPolicy(policy), 600)
    assert reported, "it did not wait"
    thread.join()


def test_stragglers_are_waited_for_no_longer_than_the_time_limit(database, samplers, wait):
    report(database, samplers[0])
    assert wait(PromotionPolicy.ALL, 1) >= 1.0


@pytest.mark.parametrize("policy", PromotionPolicy)
def test_without_a_live_sampler_nobody_is_waited_for(policy, wait, world):
    wait(policy, 600)


def test_a_sampler_that_falls_silent_meanwhile_is_not_waited_for(database, samplers, wait):
    for sampler_id in samplers[:2]:
        report(database, sampler_id)

    def silence() -> None:
        time.sleep(0.4)
        with database.session() as session:
            fall_silent(session, samplers[2], "vLLM has died")

    thread = threading.Thread(target=silence)
    thread.start()
    wait(PromotionPolicy.ALL, 600)
    thread.join()


def test_after_a_while_without_a_wait_no_wake_up_is_left_unread(database, samplers, listener, world):
    """One that nobody reads keeps all later ones in PostgreSQL's queue, which is of limited size."""
    report(database, samplers[0])
    promotion = Promotion(database, listener, 600)
    promotion.wait_until_loaded(world.base_id, X)
    promotion.rest_after(600.0)
    assert listener._is_listening, "the next wait may come at once"
    promotion.rest_after(0.0)
    with database.connection() as connection:
        connection.execute(f"select count(pg_notify('{ADAPTER_LOADED}', n::text)) from generate_series(1, 20000) as n")
        time.sleep(0.3)
        asked = "select wait_event from pg_stat_activity where pid = %s"
        (row,) = connection.execute(asked, (listener._connection.info.backend_pid,))
    assert row.wait_event == "ClientRead", "it waits until somebody reads what it has sent"


def test_a_connection_that_was_lost_between_two_waits_is_replaced(database, samplers, wait):
    report(database, samplers[0])
    wait(PromotionPolicy.ONE, 600)
    with database.connection() as connection:
        connection.execute("delete from sampler_adapters")
        connection.execute(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity "
            "where datname = current_database() and query ilike %s and pid <> pg_backend_pid()",
            ("%listen%",),
        )
    reporting = threading.Timer(0.4, report, (database, samplers[0]))
    reporting.start()
    assert wait(PromotionPolicy.ONE, 600) < 10.0
    reporting.join()
