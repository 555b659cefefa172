"""The chart's pods as processes: what `helm install` would start, each on a host of its own, trains and serves.

Commands, arguments, variables, users, volumes, probes, hooks and patience are those of the rendered manifests; nothing
is shared but PostgreSQL and the object store.
"""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fleet.commands import missing
from tests.fleet.installation import SERVER, Installation, installation
from tests.fleet.network import Network
from tests.fleet.pod import Pod
from tests.fleet.users import load

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1200)]

GOOD_ENOUGH = 0.7
REACH = """
import socket, sys, threading
def reach(target):
    host, port = target.split(':')
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        sys.stderr.write(f'{target}: {error!r}\\n')
    else:
        sys.stdout.write(f'{target}\\n')
for target in sys.argv[1:]:
    threading.Thread(target=reach, args=[target]).start()
"""


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    lacks = missing()
    assert not lacks, f"simulated hosts need: {'; '.join(lacks)}"
    with Network() as network, installation(network, tmp_path_factory.mktemp("models")) as headway:
        yield headway


def run(headway: Installation, folder: Path, *words: str, timeout_s: float = 900.0) -> str:
    """What a user's program printed."""
    process = headway.start(folder, *words)
    status = process.wait(timeout_s)
    said = (folder / "log").read_text(errors="replace")
    assert status == 0, f"{words} ended with {status}\n{said[-6000:]}\n{headway.fleet.said()}"
    return said


def restarts(headway: Installation) -> dict[str, int]:
    return {pod.name: run.restarts for pod in headway.fleet.pods() for run in pod.runs if run.restarts}


def assert_ended_in_time(pod: Pod) -> None:
    """It ended by itself within its grace, and with the status that says so."""
    [container] = pod.runs
    assert not container.was_killed, f"{pod.name} was killed after its grace\n{pod.log()}"
    assert container.status in (0, 143), f"{container.status}\n{pod.log()}"


def replaced(headway: Installation, pod: Pod) -> None:
    """Delete it, and wait until it has ended and another is ready in its place."""
    pod.delete()
    assert pod.ended.wait(120), pod.log()
    headway.fleet.wait_until_ready(180)


def test_every_pod_becomes_ready_as_the_user_and_with_the_rights_that_it_is_given(headway: Installation):
    assert restarts(headway) == {}
    for pod in headway.fleet.pods():
        container = pod.runs[0].container
        assert container is not None
        said = container.execute(["sh", "-c", "id -u; grep -E 'CapBnd|NoNewPrivs' /proc/1/status; touch /x"], 30)
        assert said.stdout.split() == ["10001", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1"]
        assert "Read-only file system" in said.stderr


def reached_from(pod: Pod, *targets: str) -> list[str]:
    """Those of HOST:PORT that a process in the pod can connect to."""
    container = pod.runs[0].container
    assert container is not None
    said = container.execute(["python", "-c", REACH, *targets], 60)
    reached = said.stdout.split()
    return [target for target in targets if target in reached]


def test_environments_reach_the_servers_and_nothing_else(headway: Installation):
    pods = {pod.labels["app.kubernetes.io/component"]: pod for pod in headway.fleet.pods()}
    service = headway.fleet.address(SERVER)
    stores = [f"{headway.backing.postgres.address}:5432", f"{headway.backing.s3.address}:9000"]
    sampler, tunnels = f"{pods['sampler'].host.address}:8430", f"{pods['runner'].host.address}:8440"
    server, metrics = f"{pods['server'].host.address}:8420", f"{pods['trainer'].host.address}:9420"
    everything = [service, server, *stores, sampler, tunnels, metrics]
    assert reached_from(pods["runner"], *everything) == [service, server, tunnels]  # the last one is its own
    assert reached_from(pods["server"], *everything) == [service, server, *stores, sampler, tunnels]
    assert reached_from(pods["sampler"], service, *stores, tunnels, metrics) == [*stores]
    assert reached_from(pods["trainer"], service, *stores, sampler, tunnels) == [*stores]


def test_the_demos_loop_climbs(headway: Installation, tmp_path: Path):
    """Through the SDK and the Service: its steps, a rollback, and the figures at the end."""
    climb = ("--lr", "1.5e-3", "--stop-at", str(GOOD_ENOUGH), "--end-above", str(GOOD_ENOUGH - 0.05))
    said = run(headway, tmp_path, "-m", "examples.demo", "--out", str(tmp_path), "--held-out", "16", *climb)
    assert "climbed" in said
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures["rollback"]["trained"] == figures["rollback"]["restored"]
    assert restarts(headway) == {}


def test_a_managed_run_climbs(headway: Installation, tmp_path: Path):
    """Deployed, synced, evaluated and started by commands; the runners' pods play, and train through the server."""
    settings = "--steps 14 --tasks-per-step 8 --lr 2e-3 -c lr_schedule=linear --every 7 -c max_tokens=8 -c max_turns=1"
    said = run(headway, tmp_path, "-m", "examples.demo_run", "--without-hud-rl", "--start-args", settings)
    assert "climbed" in said.splitlines()[-1]
    assert restarts(headway) == {}


def test_a_server_that_ends_says_so_first_and_no_request_fails(headway: Installation, tmp_path: Path):
    [pod, _] = headway.fleet.pods(component="server")
    with load(headway, tmp_path) as users:
        pod.delete()
        seen = answers_until_its_end(headway, pod)
        headway.fleet.wait_until_ready(180)
        time.sleep(2)
    assert (503, 200) in seen, f"it takes requests while it says that it is not ready: {seen}"
    assert seen.index((503, 200)) <= min((n for n, (_, call) in enumerate(seen) if call != 200), default=len(seen))
    assert users.failures == []
    assert all(number > 0 for number in users.done.values())
    assert_ended_in_time(pod)


def answers_until_its_end(headway: Installation, pod: Pod) -> list[tuple[int, int]]:
    """Statuses of a server pod's readiness and of a call, again and again, for as long as it listens."""
    seen: list[tuple[int, int]] = []
    with headway.client.inside(), httpx.Client(base_url=f"http://{pod.host.address}:8420", trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {headway.key}"
        while not pod.ended.is_set():
            try:
                seen.append((client.get("/readyz/server").status_code, client.get("/v2/models").status_code))
            except httpx.HTTPError:
                break
            time.sleep(0.1)
    assert pod.ended.wait(60), pod.log()
    return seen


def test_requests_finish_when_a_sampler_pod_is_deleted(headway: Installation, tmp_path: Path):
    [pod, _] = headway.fleet.pods(component="sampler")
    with load(headway, tmp_path, users=2, tokens=400) as users:
        replaced(headway, pod)
        time.sleep(2)
    assert users.failures == []
    assert users.done["streamed, new connection"] > 0
    assert_ended_in_time(pod)


def test_no_request_fails_while_the_samplers_token_is_replaced(headway: Installation, tmp_path: Path):
    """The new one beside the old, then before it, then alone; in running pods, whose files follow the Secret."""
    tokens = headway.fleet.objects.secrets["headway-tokens"]
    old, new = tokens["sampler-token"], secrets.token_urlsafe(16)
    with load(headway, tmp_path) as users:
        for accepted in ([old, new], [new, old], [new]):
            headway.fleet.put_secret("headway-tokens", {**tokens, "sampler-token": "\n".join(accepted)})
            time.sleep(5)
    assert users.failures == []
    assert users.done["whole, new connection"] > 0
    assert restarts(headway) == {}


def test_a_server_that_hangs_gets_no_new_requests_until_it_goes_on(headway: Installation, tmp_path: Path):
    [pod, _] = headway.fleet.pods(component="server")
    container, service = pod.runs[0].container, headway.fleet.address(SERVER)
    assert container is not None
    container.signal(signal.SIGSTOP)
    headway.fleet.wait_until(lambda: not pod.is_ready, 60)
    time.sleep(1)  # until every host knows
    try:
        for _ in range(20):
            with headway.client.inside():
                reply = httpx.get(f"http://{service}/healthz", timeout=10, trust_env=False)
            assert reply.status_code == 200
    finally:
        container.signal(signal.SIGCONT)
    headway.fleet.wait_until_ready(60)
    assert pod.runs[0].restarts == 0


def test_training_goes_on_when_the_trainer_pod_and_a_runner_pod_are_deleted(headway: Installation, tmp_path: Path):
    [trainer], [runner, _] = headway.fleet.pods(component="trainer"), headway.fleet.pods(component="runner")
    ends = threading.Thread(target=lambda: (time.sleep(5), trainer.delete(), runner.delete()))
    short = ("--steps", "4", "--held-out", "4")
    process = headway.start(tmp_path, "-m", "examples.demo", "--out", str(tmp_path), *short)
    ends.start()
    assert process.wait(600) == 1, (tmp_path / "log").read_text()  # four steps are no climb, and it says so
    assert len(json.loads((tmp_path / "demo.json").read_text())["steps"]) == 4
    headway.fleet.wait_until_ready(240)
    for pod in (trainer, runner):
        assert pod.ended.wait(60)
        assert_ended_in_time(pod)
