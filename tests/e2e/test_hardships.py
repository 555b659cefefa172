"""A disk that is full or read-only, a PostgreSQL without a connection left: a sentence, nothing lost, and on it goes.

A PostgreSQL that is killed: `test_durability`. Clocks that jump: `tests/unit/planes/test_clock_jumps`.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from store.database import normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, step
from tests.e2e.test_training import checkpoint_files, fixed_batch

pytestmark = pytest.mark.slow

DISK_BYTES = 24 * 2**20
DATABASE_DISK_BYTES = 160 * 2**20
LEFT_BYTES = 16 * 2**10
"""Enough for a small file, not for an adapter."""
TRACE_ID_LENGTH = 16 * 2**10
"""Eight of them make a payload that goes to a blob."""
STEP = {"learning_rate": 1e-3}


class Disk:
    """A small file system under a part of a box's data: checkpoints and blobs, or the database."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "headway-test", str(folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    @contextmanager
    def full(self, left_bytes: int = 0) -> Generator[None]:
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(b"\0" * 4096):
                        pass
                except OSError:
                    file.truncate(file.tell() - left_bytes)
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Generator[None]:
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, option: str) -> None:
        """Refused as busy while somebody holds a file open for writing: a log never lies here, a draft may."""
        for _ in range(50):
            if subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.folder} could not be mounted {option}")


class Hardship:
    """A box, and what two steps with its fixed batch make of a model when nobody disturbs it."""

    def __init__(self, box: Box, disk: Disk, database_disk: Disk) -> None:
        self.box, self.disk, self.database_disk = box, disk, database_disk
        self.batch = fixed_batch(box)
        undisturbed = box.fork("undisturbed")
        done = [step(box, undisturbed, inputs, group_size=4) for inputs in (self.batch, self.large("undisturbed"))]
        assert list((disk.folder / "blobs").glob("*/*")), "the large batch is not large enough"
        self.expected = checkpoint_files(box, undisturbed, done[1]["checkpoint_id"])

    def large(self, trace: str) -> list[dict[str, Any]]:
        """The fixed batch in a blob, which another trace has in another blob."""
        return [{**item, "trace_id": trace.ljust(TRACE_ID_LENGTH, ".")} for item in self.batch]

    def trained_once(self, name: str) -> str:
        model_id = self.box.fork(name)
        step(self.box, model_id, self.batch, group_size=4)
        return model_id

    def add(self, model_id: str, inputs: list[dict[str, Any]]) -> None:
        path = f"/v1/models/{model_id}/train/forward-backward"
        self.box.call("POST", path, {"inputs": inputs, "group_size": 4})

    def step(self, model_id: str) -> dict[str, str]:
        stepped = self.box.call("POST", f"/v1/models/{model_id}/train/optim-step", STEP)
        return checkpoint_files(self.box, model_id, stepped["checkpoint_id"])

    def step_when_mended(self, model_id: str) -> dict[str, str]:
        deadline = time.monotonic() + 30
        while (reply := self.ask("POST", f"/v1/models/{model_id}/train/optim-step", STEP)).status_code == 503:
            assert time.monotonic() < deadline, reply.text
            time.sleep(0.2)
        assert reply.status_code == 200, reply.text
        return checkpoint_files(self.box, model_id, reply.json()["checkpoint_id"])

    def forwards(self, model_id: str) -> Iterator[httpx.Response]:
        """Calls that fill the database, until one is not answered."""
        path = f"/v1/models/{model_id}/train/forward"
        for number in range(1000):
            inputs = [{**item, "trace_id": f"{number}".ljust(4096, ".")} for item in self.batch]
            try:
                yield self.ask("POST", path, {"inputs": inputs}, timeout_s=5.0)
            except httpx.ReadTimeout:
                return
        raise AssertionError("the database was not filled")

    def head(self, model_id: str) -> list[tuple[str, int]]:
        tree = self.box.call("GET", f"/v2/models/{model_id}/checkpoints")
        return [(node["id"], len(tree)) for node in tree if node["is_active"]]

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0) -> httpx.Response:
        url, headers = self.box.url + path, self.box.headers
        return httpx.request(method, url, json=body, headers=headers, timeout=timeout_s, trust_env=False)


@pytest.fixture(scope="module")
def hardship(tiny_base: Path) -> Iterator[Hardship]:
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base)
        disk = Disk(folder / "disk", DISK_BYTES)
        database_disk = Disk(folder / "database-disk", DATABASE_DISK_BYTES)
        try:
            box.data_dir.mkdir()
            (box.data_dir / "postgres").symlink_to(database_disk.folder)
            for name in ("checkpoints", "blobs"):
                (disk.folder / name).mkdir()
                (box.data_dir / name).symlink_to(disk.folder / name)
            yield Hardship(box.start(), disk, database_disk)
            assert box.stop() == 0
        finally:
            if box.process is not None:
                box.stop()
            disk.unmount()
            database_disk.unmount()


@pytest.mark.parametrize(
    ("trouble", "left_bytes", "words"),
    [
        ("full", 0, "No space left on device"),
        ("nearly-full", LEFT_BYTES, "No space left on device"),
        ("read-only", None, "Read-only file system"),
    ],
)
def test_a_disk_that_takes_nothing_delays_training_and_loses_nothing(
    hardship: Hardship, trouble: str, left_bytes: int | None, words: str
):
    box, disk = hardship.box, hardship.disk
    before_a_step, before_a_pass = (hardship.trained_once(f"{trouble}-{name}") for name in ("step", "pass"))
    hardship.add(before_a_step, hardship.large(f"{trouble}-step"))
    heads = [hardship.head(model_id) for model_id in (before_a_step, before_a_pass)]
    served = greedy(box, f"{trouble}-step")

    with disk.read_only() if left_bytes is None else disk.full(left_bytes):
        with pytest.raises(AssertionError, match=f"^503 .*could not be stored .{words}.*send it again"):
            hardship.add(before_a_pass, hardship.large(f"{trouble}-pass"))
        # After a minute of it; the step stays queued.
        with pytest.raises(AssertionError, match=f"^503 .*cannot use its storage .{words}.*send the same call again"):
            hardship.step(before_a_step)
        assert greedy(box, f"{trouble}-step") == served
        assert [hardship.head(model_id) for model_id in (before_a_step, before_a_pass)] == heads
        hardship.add(before_a_pass, hardship.batch)  # small enough for the database

    assert hardship.step(before_a_step) == hardship.expected
    box.call("PUT", f"/v2/models/{before_a_pass}/head", {"checkpoint_id": heads[1][0][0]})  # drops the small pass
    hardship.add(before_a_pass, hardship.large(f"{trouble}-pass"))
    assert hardship.step(before_a_pass) == hardship.expected
    assert not list((disk.folder / "checkpoints" / ".staging").iterdir())
    assert not [path for path in (disk.folder / "blobs").rglob(".*") if path.is_file()]


def test_a_full_disk_under_postgresql_delays_training_and_loses_nothing(hardship: Hardship):
    box, model_id = hardship.box, hardship.trained_once("database-full")
    hardship.add(model_id, hardship.batch)
    served, head = greedy(box, "database-full"), hardship.head(model_id)
    with hardship.database_disk.full():
        refused = next((reply for reply in hardship.forwards(model_id) if reply.status_code != 200), None)
        if refused is not None:  # else a call waits: it is in the log, and the log does not take its end
            assert refused.status_code == 503, refused.text
            assert "again" in refused.json()["detail"]
        assert greedy(box, "database-full") == served
        assert hardship.head(model_id) == head
    assert hardship.step_when_mended(model_id) == hardship.expected


def test_more_calls_than_the_server_has_connections_are_all_answered(hardship: Hardship):
    model_id = hardship.trained_once("crowded")
    paths = ("/v2/models", f"/v2/models/{model_id}/checkpoints", "/readyz", f"/v2/models/{model_id}")
    head = f"/v2/models/{model_id}/head"
    calls: list[tuple[str, str, Any]] = [("GET", paths[i % len(paths)], None) for i in range(200)]
    calls += [("PUT", head, {"checkpoint_id": hardship.head(model_id)[0][0]})] * 4
    passes = [{"inputs": hardship.batch, "group_size": 4}] * 60
    calls += [("POST", f"/v1/models/{model_id}/train/forward", body) for body in passes]
    with ThreadPoolExecutor(len(calls)) as pool:
        replies = list(pool.map(lambda call: hardship.ask(*call), calls))
    assert Counter(reply.status_code for reply in replies) == {200: len(calls)}


class Crowd:
    """Somebody else who takes every connection that PostgreSQL gives, our planes' own included."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._held = [psycopg.connect(dsn, autocommit=True)]
        self._gone = threading.Event()
        self._pushing = threading.Thread(target=self._push)
        self.is_alone = threading.Event()
        self._pushing.start()

    def leave(self) -> None:
        self._gone.set()
        self._pushing.join()
        for connection in self._held:
            connection.close()

    def _push(self) -> None:
        others = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> all(%s)"
        while not self._gone.wait(0.05):
            try:
                while True:
                    self._held.append(psycopg.connect(self._dsn, autocommit=True))
            except psycopg.OperationalError:
                mine = [connection.info.backend_pid for connection in self._held]
                ended = self._held[0].execute(f"select pg_terminate_backend(pid) from ({others}) o", (mine,))
                if ended.rowcount == 0:
                    self.is_alone.set()


@contextmanager
def crowd(box: Box) -> Generator[None]:
    postgres = EmbeddedPostgres(box.data_dir / "postgres")
    others = Crowd(psycopg_dsn(normalise_url(postgres.url)))
    try:
        assert others.is_alone.wait(30)
        yield
    finally:
        others.leave()
        postgres.stop()


def test_a_postgresql_without_a_connection_left_is_waited_for(hardship: Hardship):
    model_id = hardship.trained_once("last-in-line")
    hardship.add(model_id, hardship.large("last-in-line"))
    with crowd(hardship.box):
        body = {"inputs": hardship.batch, "group_size": 4}
        for call in (
            ("GET", "/v2/models"),
            ("POST", f"/v1/models/{model_id}/train/forward-backward", body),
            ("POST", f"/v1/models/{model_id}/train/optim-step", STEP),
        ):
            reply = hardship.ask(*call)
            assert reply.status_code == 503, reply.text
            assert int(reply.headers["Retry-After"]) > 0
            assert "try again" in reply.json()["detail"]
        assert hardship.ask("GET", "/readyz").status_code == 503
        assert hardship.ask("GET", "/healthz").status_code == 200

    assert hardship.step_when_mended(model_id) == hardship.expected
    assert greedy(hardship.box, "last-in-line")
