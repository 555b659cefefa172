"""Blobs in a bucket: writers and collections that meet, copies on the local disk, and servers away."""

from __future__ import annotations

import itertools
import os
import resource
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from store.blob_stores import open_blob_store
from store.blob_stores import s3 as module
from store.blob_stores.copies import BlobCopies
from store.blob_stores.s3 import S3BlobStore
from store.blob_stores.tombstones import FOLDER, Tombstones
from store.object_store.bucket import Bucket, StoredObject, connect
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.http_servers import serving
from tests.object_store import BUCKET, AgedBucket, ObjectStore
from tests.ports.blob_places import S3BlobPlace
from wire.errors import Unavailable

OLD_S = 7200.0
GRACE_S = 3600.0
DATA = b"somebody is about to commit a row that names it"


class Steps:
    """Lets a thread do one call of its bucket at a time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._allowed = 0.0
        self._arrived = 0
        self.is_over = False

    def arrive(self) -> None:
        with self._condition:
            self._arrived += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._allowed >= self._arrived)

    def end(self) -> None:
        with self._condition:
            self.is_over = True
            self._condition.notify_all()

    def one(self) -> None:
        """Do the call at which it waits, up to the next one."""
        with self._condition:
            self._condition.wait_for(lambda: self.is_over or self._arrived > self._allowed)
            self._allowed += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self.is_over or self._arrived > self._allowed)

    def all(self) -> None:
        with self._condition:
            self._allowed = float("inf")
            self._condition.notify_all()


class SteppedBucket(Bucket):
    """In which everything is old that was not put since: `young` is shared by those who meet."""

    def __init__(self, s3: ObjectStore, prefix: str, young: set[str], steps: Steps) -> None:
        super().__init__(BUCKET, prefix, s3.client)
        self._young = young
        self._steps = steps

    def put(self, key: str, data: bytes) -> None:
        self._steps.arrive()
        super().put(key, data)
        self._young.add(key)

    def make_young(self, key: str) -> None:
        self._steps.arrive()
        super().make_young(key)
        self._young.add(key)

    def find(self, key: str) -> StoredObject | None:
        if not key.startswith(FOLDER):  # a collection's look at its own tombstone is nobody else's business
            self._steps.arrive()
        found = super().find(key)
        return found and replace(found, age_s=0.0 if key in self._young else OLD_S)

    def list(self, under: str = "") -> Iterator[StoredObject]:
        self._steps.arrive()
        return super().list(under)

    def delete(self, keys: Sequence[str], check: Callable[[], None] | None = None) -> None:
        self._steps.arrive()
        super().delete(keys, check)
        self._young.difference_update(keys)


def meet(s3: ObjectStore, folder: Path, order: Sequence[str]) -> bool:
    """Whether the blob is there after a collection and a writer of it took their steps in this order."""
    prefix, young, copies = uuid.uuid4().hex, set[str](), BlobCopies(folder, 2**20)
    before = S3BlobStore(Bucket(BUCKET, prefix, s3.client), copies)
    name = before.put(DATA)
    (found,) = before.stored()
    steps = {"collector": Steps(), "writer": Steps()}
    collector, writer = (S3BlobStore(SteppedBucket(s3, prefix, young, steps[who]), copies) for who in steps)

    def act(who: str) -> None:
        try:
            if who == "collector":
                collector.remove_older([found], GRACE_S)
            else:
                writer.put(DATA)
        finally:
            steps[who].end()

    with ThreadPoolExecutor(2) as threads:
        acting = [threads.submit(act, who) for who in steps]
        for who in order:
            steps[who].one()
        for one in steps.values():
            one.all()
        for one in acting:
            one.result()
    return before.check(name) is None and not list(before._bucket.list(FOLDER))


def orders(num_writer: int) -> list[tuple[str, ...]]:
    """All in which a collection's four calls (tombstone, look, delete, remove) and a writer's can happen."""
    num = 4 + num_writer
    places = itertools.combinations(range(num), num_writer)
    return [tuple("writer" if i in chosen else "collector" for i in range(num)) for chosen in places]


@pytest.mark.parametrize(
    ("cheap_bytes", "num_calls"),
    [pytest.param(2**20, 3, id="put"), pytest.param(0, 4, id="made young", marks=pytest.mark.slow)],
)
def test_no_order_of_steps_loses_a_blob_that_is_put_while_it_is_collected(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap_bytes: int, num_calls: int
):
    monkeypatch.setattr(module, "_CHEAP_BYTES", cheap_bytes)
    monkeypatch.setattr("store.blob_stores.tombstones._PAUSE_S", 0.01)
    lost = [order for order in orders(num_calls) if not meet(s3, tmp_path, order)]
    assert not lost


def test_without_tombstones_or_without_the_last_look_some_order_loses_it(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    between = ("collector", "collector", "writer", "writer", "writer", "collector", "collector")
    assert meet(s3, tmp_path, between)
    with monkeypatch.context() as patch:
        patch.setattr(Tombstones, "wait", lambda self, name: False)
        assert not meet(s3, tmp_path, between), "put and looked after the look at its age, before the deletion"
    late = ("collector", "collector", "writer", "collector", "collector", "writer", "writer")
    assert meet(s3, tmp_path, late)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "exists", lambda self, key: True)
        assert not meet(s3, tmp_path, late), "put before the deletion, listed after the tombstone was removed"


def test_a_tombstone_of_a_dead_collection_is_waited_for_and_expires(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = S3BlobPlace(s3, tmp_path)
    blobs = place.open()
    name = blobs.put(DATA)
    place.age(OLD_S)

    class Killed(BaseException): ...

    with pytest.raises(Killed), Tombstones(blobs._bucket).standing([name]):
        raise Killed
    monkeypatch.setattr("store.blob_stores.tombstones._PATIENCE_S", 0.3)
    with pytest.raises(Unavailable, match="a collection of blobs that was interrupted"):
        place.open().put(DATA)
    place.open().put(b"which it does not name")
    place.age(OLD_S)
    assert place.open().put(DATA) == name
    (left,) = [blob for blob in blobs.stored() if blob.name is None]
    assert blobs.remove_older([left], GRACE_S) == [left]


def test_a_collection_that_was_held_up_deletes_nothing_and_keeps_nobody_waiting(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = S3BlobPlace(s3, tmp_path)
    blobs = place.open()
    name = blobs.put(DATA)
    place.age(OLD_S)
    look = blobs._bucket.find

    def suspended(key: str) -> StoredObject | None:
        found = look(key)
        if not key.startswith(FOLDER):
            place.age(121.0)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(blobs._bucket, "find", suspended)
        with pytest.raises(Unavailable, match="took too long"):
            blobs.remove_older(list(blobs.stored()), GRACE_S)
    assert [blob.name for blob in blobs.stored()] == [name]


def test_a_deletion_is_not_sent_again_once_its_tombstone_is_old(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """boto3 repeats a request by itself. Meanwhile the process was paused, and a writer has put the blob again."""
    place = S3BlobPlace(s3, tmp_path)
    name = place.open().put(DATA)
    place.age(OLD_S)
    with flaky_proxy(s3.endpoint) as proxy:

        def pause(method: str, path: str) -> str | None:
            if method != "POST":
                return None
            place.age(601.0)
            assert place.open().put(DATA) == name
            return "slow down"

        proxy.trouble = pause
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket = AgedBucket(replace(s3, client=connect()), place.prefix, place._older)
        paused = S3BlobStore(bucket, BlobCopies(tmp_path / "copies", 2**20), fresh_s=0.0)
        with pytest.raises(Unavailable, match="took too long"):
            paused.remove_older([blob for blob in paused.stored() if blob.name], GRACE_S)
        assert [method for method, _ in proxy.requests].count("POST") == 1
    assert place.open().check(name) is None
    assert [blob.key for blob in place.open().stored() if blob.key.startswith(FOLDER)], "its first request may come yet"


def test_a_deletion_that_was_not_answered_keeps_its_writers_waiting(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = S3BlobPlace(s3, tmp_path)
    blobs = place.open()
    blobs.put(DATA)
    place.age(OLD_S)

    def unanswered(keys: Sequence[str], check: Callable[[], None]) -> None:
        check()
        raise Unavailable("it may happen yet")

    with monkeypatch.context() as patch:
        patch.setattr(blobs._bucket, "delete", unanswered)
        with pytest.raises(Unavailable, match="may happen yet"):
            blobs.remove_older(list(blobs.stored()), GRACE_S)
    assert [blob.key for blob in blobs.stored() if blob.name is None and blob.key.startswith(FOLDER)]


def test_a_bucket_that_does_not_show_what_was_put_is_a_trouble_and_no_endless_loop(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    blobs = S3BlobPlace(s3, tmp_path).open()
    monkeypatch.setattr(blobs._bucket, "exists", lambda key: False)
    with pytest.raises(Unavailable, match="does not show blob"):
        blobs.put(DATA)


def test_what_this_process_put_a_moment_ago_costs_no_call(s3: ObjectStore, tmp_path: Path, monkeypatch):
    with flaky_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        blobs = S3BlobStore(Bucket(BUCKET, uuid.uuid4().hex, connect()), BlobCopies(tmp_path, 2**20))
        name = blobs.put(DATA)
        assert [method for method, _ in proxy.requests] == ["PUT", "GET", "HEAD"]
        blobs.put(DATA)
        assert len(proxy.requests) == 3
        assert blobs.get(name) == blobs.get(name) == DATA
        assert len(proxy.requests) == 4, "the second time from its copy"


def test_copies_that_were_harmed_or_cannot_be_written_cost_a_call_and_nothing_else(s3: ObjectStore, tmp_path: Path):
    place = S3BlobPlace(s3, tmp_path)
    blobs = open_blob_store(place.url)
    name = blobs.put(DATA)
    assert blobs.get(name) == DATA
    copy = next(path for path in (tmp_path / "blob-cache").rglob(name))
    copy.write_bytes(b"harmed")
    assert blobs.get(name) == DATA
    (tmp_path / "in the way").write_bytes(b"")
    nowhere = S3BlobStore(blobs._bucket, BlobCopies(tmp_path / "in the way", 2**20))
    assert nowhere.get(name) == DATA
    with nowhere.open(name) as file:
        assert file.read() == DATA
    draft = nowhere.draft()
    draft.write(DATA)
    assert draft.keep() == name
    draft.drop()


def test_copies_stay_below_their_bound_and_the_least_used_go(tmp_path: Path):
    copies = BlobCopies(tmp_path, 1000)
    names = [f"{number:064x}" for number in range(20)]
    for name in names:
        copies.write(name, b"x" * 100)
    left = {path.name for path in tmp_path.glob("*/*")}
    assert names[-1] in left
    assert names[0] not in left
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 1000
    copies.write("f" * 64, b"x" * 2000)
    assert not list(tmp_path.rglob("f" * 64)), "larger than the bound"


def test_making_room_for_copies_removes_nothing_else_of_their_folder(tmp_path: Path):
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    others = [cache / "postgres" / "PG_VERSION", cache / "ab" / "mine", elsewhere / ("b" * 64)]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 2000)
    (cache / "bb").symlink_to(elsewhere)
    (cache / "cc").mkdir()
    (cache / "cc" / ("c" * 64)).symlink_to(others[0])
    copies = BlobCopies(cache, 1000)
    for number in range(20):
        copies.write(f"{number:064x}", b"x" * 100)
    assert all(path.exists() for path in others)
    assert len(list((cache / "00").iterdir())) in range(1, 11)


def test_what_is_no_file_is_no_copy(tmp_path: Path):
    copies, name = BlobCopies(tmp_path, 1000), "a" * 64
    (tmp_path / "aa").mkdir()
    os.mkfifo(tmp_path / "aa" / name)
    assert copies.open(name) is None


def test_a_disk_that_takes_no_copy_of_a_large_blob_is_a_trouble_that_passes(s3: ObjectStore, tmp_path: Path):
    blobs = S3BlobPlace(s3, tmp_path).open()
    name = blobs.put(b"x" * 2**20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    try:
        with pytest.raises(Unavailable, match=r"no disk of this machine takes a copy .*File too large"):
            blobs.open(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the draft went"
    with blobs.open(name) as file:
        assert len(file.read()) == 2**20


def through(proxy: FlakyProxy, place: S3BlobPlace, monkeypatch: pytest.MonkeyPatch) -> S3BlobStore:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    blobs = open_blob_store(place.url)
    assert isinstance(blobs, S3BlobStore)
    return blobs


@pytest.mark.parametrize("trouble", ["broken off", "altered"])
@pytest.mark.parametrize("size", [2**10, 17 * 2**20], ids=["small", "in ranges"])
def test_an_answer_that_came_broken_or_altered_is_asked_for_again(
    trouble: str, size: int, s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place, data = S3BlobPlace(s3, tmp_path), os.urandom(size)
    name = place.open().put(data)
    with flaky_proxy(s3.endpoint) as proxy:
        blobs, troubles = through(proxy, place, monkeypatch), iter(())
        proxy.trouble = lambda method, path: next(troubles, None) if method == "GET" else None
        troubles = iter([trouble])
        with blobs.open(name) as file:
            assert file.read() == data
        blobs._copies.clear()
        troubles = iter([trouble])
        assert blobs.get(name) == data
        troubles = iter([trouble])
        assert blobs.check(name) is None


def test_threads_that_read_the_same_at_once_download_it_once(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = S3BlobPlace(s3, tmp_path)
    name = place.open().put(DATA)
    with flaky_proxy(s3.endpoint) as proxy, ThreadPoolExecutor(16) as threads:
        blobs = through(proxy, place, monkeypatch)
        proxy.trouble = lambda method, path: "hang"
        reading = [threads.submit(blobs.get, name) for _ in range(16)]
        proxy.goes_on.set()
        assert [read.result() for read in reading] == [DATA] * 16
        assert proxy.requests == [("GET", f"/{BUCKET}/{place.prefix}/{name[:2]}/{name}")]


def test_copies_on_a_full_disk_make_way_for_others(s3: ObjectStore, tmp_path: Path, small_disk: Path):
    place = S3BlobPlace(s3, tmp_path)
    datas = [bytes([number]) * 400_000 for number in range(8)]
    names = [place.open().put(data) for data in datas]
    blobs = S3BlobStore(place.open()._bucket, BlobCopies(small_disk / "copies", 2**30))
    for name, data in zip(names, datas, strict=True):
        with blobs.open(name) as file:
            assert file.read() == data
    draft = blobs.draft()
    draft.write(os.urandom(1_800_000))
    draft.keep()
    draft.drop()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"])
def test_the_end_of_a_line_in_a_key_is_named_before_anything_is_sent(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "word\n")
    with pytest.raises(ValueError, match=f"{variable} has a blank or a line's end at its end") as refused:
        connect()
    assert "word" not in str(refused.value)


def test_what_answers_and_is_no_object_store_is_said(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Page(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    with serving(server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(Unavailable, match="no object store, see AWS_ENDPOINT_URL"):
            open_blob_store(S3BlobPlace(s3, tmp_path).url).has("a" * 64)


def test_an_environment_that_names_no_object_store_is_refused_without_its_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:endpoint-secret@nowhere")
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL is no URL") as refused:
        open_blob_store("s3://bucket")
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    with pytest.raises(ValueError, match="do not fit together: ProfileNotFound"):
        open_blob_store("s3://bucket")


def test_a_bucket_that_is_away_says_so_and_copies_are_read_meanwhile(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = S3BlobPlace(s3, tmp_path)
    blobs = place.open()
    name = blobs.put(DATA)
    blobs.get(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:endpoint-secret@127.0.0.1:1")
    blobs._bucket = Bucket(BUCKET, place.prefix, connect(max_attempts=1), of="blob")
    blobs._tombstones = Tombstones(blobs._bucket)
    assert blobs.get(name) == DATA
    for call in (
        lambda: blobs.put(b"other"),
        lambda: blobs.get("0" * 64),
        lambda: blobs.open("0" * 64),
        lambda: blobs.has(name),
        lambda: blobs.check(name),
        lambda: list(blobs.stored()),
    ):
        with pytest.raises(Unavailable, match="the blob store s3://.* cannot be used, it does not answer") as refused:
            call()
        assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("gs://bucket", "no blob store for gs://; known: file, s3"),
        ("s3://", "names a bucket"),
        ("s3://key:very-secret@bucket", "credentials belong in AWS_ACCESS_KEY_ID"),
        ("s3://bucket?cash=1", "and no others"),
        ("file://data/blobs", "names no folder: write file:///"),
        ("file://", "names no folder"),
        ("file:blobs", "no blob store for file:blobs"),
        ("file:///blobs?cache=/x", "names no folder"),
    ],
)
def test_a_url_that_is_none_is_refused_with_a_sentence(url: str, sentence: str):
    with pytest.raises(ValueError, match=sentence) as refused:
        open_blob_store(url)
    assert "very-secret" not in str(refused.value)
