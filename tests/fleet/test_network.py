"""What the simulated network promises to tests that run Headway on it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet.network import Host, Network
from tests.fleet.process import Process

pytestmark = pytest.mark.fleet
ECHO = """
import socket, threading
def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
listener = socket.create_server(("", 7))
while True:
    threading.Thread(target=echo, args=listener.accept()[:1]).start()
"""


def echo_on(host: Host) -> Process:
    process = host.start([sys.executable, "-c", ECHO], {})
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with host.inside():
                socket.create_connection(("127.0.0.1", 7)).close()
            return process
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError(host.folder.joinpath("log").read_text())


@contextmanager
def connected(a: Host, b: Host) -> Generator[socket.socket]:
    with a.inside():
        connection = socket.create_connection((b.address, 7), timeout=5)
    with connection:
        yield connection


def echoed_s(connection: socket.socket, data: bytes = b"x") -> float:
    start = time.monotonic()
    connection.sendall(data)
    got = b""
    while len(got) < len(data) and (more := connection.recv(65536)):
        got += more
    assert got == data
    return time.monotonic() - start


def said(host: Host, script: str, **options: object) -> str:
    log = host.folder / "said"
    process = host.start(["sh", "-c", script], {}, log=log, **options)  # pyright: ignore[reportArgumentType]
    process.wait(10)
    return log.read_text().strip()


def test_hosts_reach_one_another_until_they_are_cut_and_again_when_healed(network: Network):
    a, b, c = (network.host(name) for name in "abc")
    echo_on(b)
    with connected(a, b) as connection, connected(c, b) as other:
        echoed_s(connection)
        network.cut(a, b)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            echoed_s(connection)
        echoed_s(other)
        network.heal()
        connection.settimeout(5)
        assert connection.recv(1) == b"x", "TCP sends again what was lost"


def test_a_delay_holds_for_connections_that_were_open(network: Network):
    a, b = network.host("a"), network.host("b")
    echo_on(b)
    with connected(a, b) as connection:
        network.delay(a, b, 0.2)
        assert echoed_s(connection) >= 0.2
        assert echoed_s(connection, b"y" * 300_000) >= 0.2
        network.heal()
        echoed_s(connection)
    with connected(a, b) as connection:
        echoed_s(connection)


def test_lost_packets_are_sent_again(network: Network):
    a, b = network.host("a"), network.host("b")
    echo_on(b)
    network.lose(a, b, 0.1)
    with connected(a, b) as connection:
        echoed_s(connection, b"z" * 300_000)
    assert network.dropped(b) > 0


def test_nobody_hears_of_a_host_that_vanished(network: Network):
    a, b = network.host("a"), network.host("b")
    process = echo_on(b)
    with connected(a, b) as connection:
        network.vanish(b)
        assert process.poll() is not None
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        network.revive(b)
        connection.settimeout(5)
        with pytest.raises(ConnectionResetError):
            echoed_s(connection)


def test_a_process_has_its_folders_where_it_looks_for_them_and_may_write_nowhere_else(network: Network, tmp_path: Path):
    host = network.host("a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    script = "id -u; touch /var/lib/headway/new /elsewhere; hostname -i >/dev/null 2>&1; getent hosts a; pwd"
    mounts = {"/var/lib/headway": tmp_path / "data"}
    text = said(host, script, mounts=mounts, uid=10001, read_only=True, cwd="/var/lib")
    assert "10001" in text
    assert "Read-only file system" in text
    assert host.address in text
    assert text.endswith("/var/lib")
    assert (tmp_path / "data" / "new").exists()
    assert not Path("/var/lib/headway/new").exists()


def test_what_is_written_to_the_root_stays_with_the_process(network: Network):
    host = network.host("a")
    process = host.start(["sh", "-c", "echo mine > /mine; sleep 60"], {"NAME": "value"}, cwd="/usr")
    deadline = time.monotonic() + 10
    while process.execute(["test", "-s", "/mine"]).returncode and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.execute(["sh", "-c", "cat /mine; echo $NAME; pwd"]).stdout == "mine\nvalue\n/usr\n"
    assert not Path("/mine").exists()


def test_a_clock_is_off_while_the_monotonic_one_is_not_and_can_be_put_back(network: Network):
    host = network.host("a")
    host.clock_offset_s = 3600.0
    script = "import time\nwhile True: print(time.time(), time.monotonic(), flush=True); time.sleep(0.05)"
    process = host.start([sys.executable, "-c", script], {})

    def offsets() -> tuple[float, float]:
        deadline, log = time.monotonic() + 10, host.folder / "log"
        while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < deadline:
            time.sleep(0.05)
        wall, monotonic = map(float, log.read_text().splitlines()[-2].split())
        return wall - time.time(), monotonic - time.monotonic()

    wall, monotonic = offsets()
    assert abs(wall - 3600) < 5
    assert abs(monotonic) < 5
    host.clock_offset_s = -60.0
    deadline = time.monotonic() + 10
    while abs(offsets()[0] + 60) > 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert abs(offsets()[0] + 60) < 5
    process.kill()


def test_children_of_processes_end_with_the_network():
    with Network() as network:
        host = network.host("a")
        process = host.start(["sh", "-c", "setsid sleep 987 & wait"], {})
        threading.Event().wait(0.2)
        assert process.poll() is None
    assert process.poll() is not None
