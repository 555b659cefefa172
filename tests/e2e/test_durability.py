from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, step
from tests.e2e.test_training import checkpoint_files, fixed_batch
from tests.postgres_template import lay_out


@pytest.fixture(scope="module")
def mortal_box(tiny_base: Path) -> Iterator[Box]:
    """A box whose planes are killed, and started again by `up` before a test ends."""
    with database_folder() as folder:
        box = Box(lay_out(folder / "data" / "postgres").parent, tiny_base, is_forked=True).start()
        yield box
        box.stop()


@pytest.mark.slow
def test_a_stopped_service_goes_on_where_it_was(own_box: Box):
    own_box.start()
    key = own_box.env["HUD_API_KEY"]
    model_id = own_box.fork("kept")
    batch = fixed_batch(own_box)
    step(own_box, model_id, batch, group_size=4)
    before = greedy(own_box, "kept")
    own_box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})
    assert own_box.stop() == 0

    own_box.start()
    assert own_box.env["HUD_API_KEY"] == key or own_box.call("GET", "/v2/models")
    ids, logprobs = greedy(own_box, "kept")
    assert ids == before[0]
    assert max(abs(a - b) for a, b in zip(logprobs, before[1], strict=True)) < 1e-6
    stepped = own_box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    assert stepped["step"] == 2, "the gradient from before the stop was replayed"


def test_a_killed_trainer_costs_neither_gradients_nor_bits(mortal_box: Box):
    batch = fixed_batch(mortal_box)
    undisturbed = mortal_box.fork("undisturbed")
    expected = [step(mortal_box, undisturbed, batch, group_size=4) for _ in range(2)]

    killed = mortal_box.fork("killed")
    step(mortal_box, killed, batch, group_size=4)
    mortal_box.call("POST", f"/v1/models/{killed}/train/forward-backward", {"inputs": batch, "group_size": 4})
    mortal_box.kill("trainer")
    stepped = mortal_box.call("POST", f"/v1/models/{killed}/train/optim-step", {"learning_rate": 1e-3})
    assert checkpoint_files(mortal_box, killed, stepped["checkpoint_id"]) == checkpoint_files(
        mortal_box, undisturbed, expected[1]["checkpoint_id"]
    )


@pytest.mark.slow
def test_a_killed_sampler_comes_back_with_every_head(own_box: Box):
    own_box.start()
    model_id = own_box.fork("served")
    step(own_box, model_id, fixed_batch(own_box), group_size=4)
    before = greedy(own_box, "served")
    own_box.kill("sampler")
    deadline = time.monotonic() + 90
    while True:
        try:
            assert greedy(own_box, "served")[0] == before[0]
            return
        except AssertionError as refused:
            assert "503" in str(refused), refused
            assert time.monotonic() < deadline, "the sampler did not come back"
            time.sleep(0.5)


def hang_up(box: Box, model_id: str, batch: list[dict]) -> None:
    """A client that dies right after it has sent a pass."""
    url = urlsplit(box.url)
    body = json.dumps({"inputs": batch, "group_size": 4}).encode()
    head = f"POST /v1/models/{model_id}/train/forward-backward HTTP/1.1\r\nHost: {url.netloc}\r\n"
    head += f"Authorization: {box.headers['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((url.hostname or "", url.port or 80)) as connection:
        connection.sendall(head.encode() + body)


def kill_the_server(box: Box, model_id: str, batch: list[dict]) -> None:
    """A server that dies while a client waits for its pass, which waits for a trainer."""

    def ask() -> None:
        with pytest.raises((AssertionError, httpx.HTTPError)):
            box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})

    box.kill("trainer")
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    box.kill("server")
    asking.join()
    wait_for_the_server(box)


def wait_for_the_server(box: Box) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(box.url + "/readyz", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not come back")


def test_a_pass_whose_client_died_changes_no_bit_of_the_next_step(box: Box):
    compare_with_an_undisturbed_model(box, hang_up)


def test_a_pass_whose_server_died_changes_no_bit_of_the_next_step(mortal_box: Box):
    compare_with_an_undisturbed_model(mortal_box, kill_the_server)


def compare_with_an_undisturbed_model(box: Box, lose: Callable[[Box, str, list[dict]], None]) -> None:
    batch = fixed_batch(box)
    others = [{**item, "reward": 3.0 - item["reward"]} for item in batch]
    undisturbed, disturbed = box.fork(f"{lose.__name__}-not"), box.fork(lose.__name__)
    for model_id in (undisturbed, disturbed):
        box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})
    lose(box, disturbed, others[:4])
    expected, stepped = (step(box, model_id, batch[4:], group_size=4) for model_id in (undisturbed, disturbed))
    assert checkpoint_files(box, disturbed, stepped["checkpoint_id"]) == checkpoint_files(
        box, undisturbed, expected["checkpoint_id"]
    )


def test_a_loop_that_is_run_again_with_the_same_rollouts_applies_them_once(box: Box):
    batch = fixed_batch(box)
    undisturbed, disturbed = box.fork("run-once"), box.fork("run-again")
    hang_up(box, disturbed, batch)
    time.sleep(0.2)
    expected, stepped = (step(box, model_id, batch, group_size=4) for model_id in (undisturbed, disturbed))
    assert checkpoint_files(box, disturbed, stepped["checkpoint_id"]) == checkpoint_files(
        box, undisturbed, expected["checkpoint_id"]
    )
    again = box.call("POST", f"/v1/models/{disturbed}/train/optim-step", {"learning_rate": 1e-3})
    assert again == stepped


@pytest.mark.slow
def test_a_killed_database_is_started_again(own_box: Box):
    own_box.start()
    before = own_box.fork("kept")
    postmaster = (own_box.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]
    os.kill(int(postmaster), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert before in {model["id"] for model in own_box.call("GET", "/v2/models")["items"]}
            step(own_box, before, fixed_batch(own_box), group_size=4)
            return
        except AssertionError as refused:
            assert time.monotonic() < deadline, refused
            time.sleep(0.5)
