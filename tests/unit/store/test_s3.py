"""What can befall a checkpoint store that is a bucket: killed processes, refusals, servers away, many objects."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

from store.checkpoint_stores import open_checkpoint_store
from store.checkpoint_stores.cache import CheckpointCache
from store.checkpoint_stores.s3 import S3CheckpointStore
from store.object_store.bucket import Bucket, connect
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.object_store import BUCKET, ObjectStore
from tests.ports.checkpoint_places import S3Place
from tests.ports.test_checkpoint_store_port import PUBLISHER
from wire.errors import Unavailable

MODEL = uuid.uuid4()
LARGE = 20 * 2**20  # in two parts


@pytest.fixture
def place(s3: ObjectStore, tmp_path: Path) -> S3Place:
    return S3Place(s3, tmp_path)


@pytest.fixture
def proxy(s3: ObjectStore) -> Iterator[FlakyProxy]:
    with flaky_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: FlakyProxy, place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3CheckpointStore:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setitem(ExponentialBackoff._DEFAULT_BACKOFF_CONFIG, "throttling_base_scale", 0.05)  # seconds; 1
    bucket = Bucket(BUCKET, place.prefix, connect(max_attempts=4))
    return S3CheckpointStore(bucket, CheckpointCache(tmp_path / "proxied", 2**30))


def publish(store: S3CheckpointStore, weights: bytes = b"weights", checkpoint: uuid.UUID | None = None) -> uuid.UUID:
    checkpoint = checkpoint or uuid.uuid4()
    with store.stage(MODEL, checkpoint) as staged:
        (staged / "adapter" / "adapter_model.safetensors").write_bytes(weights)
        (staged / "state" / "state.safetensors").write_bytes(b"moments")
        store.publish(MODEL, checkpoint, staged)
    return checkpoint


def weights_of(store: S3CheckpointStore, checkpoint: uuid.UUID) -> bytes:
    files = store.fetch(MODEL, checkpoint, state=False)
    return (files.adapter / "adapter_model.safetensors").read_bytes()


def test_what_a_dead_process_staged_goes_when_the_next_one_stages(place: S3Place):
    checkpoint = uuid.uuid4()
    command = [sys.executable, "-c", PUBLISHER, place.url, str(MODEL), str(checkpoint)]
    environment = {**os.environ, "HEADWAY_FAULTS": "publish:before-manifest:1:kill"}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    here = open_checkpoint_store(place.url)
    staging = Path(place.url.partition("cache=")[2]) / ".staging"
    assert list(staging.iterdir()), "the dead process's staging folder"
    with here.stage(MODEL, checkpoint):
        assert len(list(staging.iterdir())) == 1, "it went, and this one came"


def test_parts_of_an_upload_that_nobody_finished_are_found_and_removed(place: S3Place, s3: ObjectStore):
    key = f"{place.prefix}/{MODEL.hex}/{uuid.uuid4().hex}/state/state.safetensors"
    upload = s3.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    s3.client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"half")
    place.age(7200)
    store = place.open()
    ((name, age_s),) = store.left_over()
    assert age_s >= 7200
    store.remove_left_over(name)
    store.remove_left_over(name)
    assert list(store.left_over()) == []


def test_a_store_that_is_cut_off_in_the_middle_of_an_upload_publishes_nothing(
    proxied: S3CheckpointStore, proxy: FlakyProxy, place: S3Place
):
    proxy.trouble = lambda method, path: "cut" if method == "PUT" and "partNumber=2" in path else None
    with pytest.raises(Unavailable, match="what was stored is not lost"):
        publish(proxied, os.urandom(LARGE))
    assert list(place.open().stored()) == []
    assert all("#" not in name for name, _ in place.open().left_over()), "the parts were removed at once"
    proxy.trouble = lambda method, path: None
    assert weights_of(place.open(), publish(proxied)) == b"weights"


def test_who_is_told_to_slow_down_tries_again(proxied: S3CheckpointStore, proxy: FlakyProxy, tmp_path: Path):
    refused: set[tuple[str, str]] = set()

    def once_each(method: str, path: str) -> str | None:
        if (method, path) in refused:
            return None
        refused.add((method, path))
        return "slow down"

    proxy.trouble = once_each
    checkpoint = publish(proxied)
    proxied.remove(MODEL, checkpoint, "state")
    cold = S3CheckpointStore(proxied._bucket, CheckpointCache(tmp_path / "cold", 2**30))
    assert weights_of(cold, checkpoint) == b"weights"
    assert {method for method, _ in refused} >= {"PUT", "GET", "HEAD", "POST"}


def test_a_store_that_refuses_this_machines_clock_says_what_to_do(proxied: S3CheckpointStore, proxy: FlakyProxy):
    proxy.trouble = lambda method, path: "skewed"
    with pytest.raises(Unavailable, match="set the clock of this machine"):
        publish(proxied)


def test_a_store_that_is_away_says_so_without_secrets_and_copies_are_served_meanwhile(
    place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    warm = place.open()
    checkpoint = publish(warm)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:endpoint-secret@127.0.0.1:1")
    away = Bucket(BUCKET, place.prefix, connect(max_attempts=1))
    store = S3CheckpointStore(away, CheckpointCache(tmp_path / "none", 2**30))
    for call in (
        lambda: publish(store),
        lambda: store.fetch(MODEL, checkpoint),
        lambda: list(store.stored()),
        lambda: store.remove(MODEL, checkpoint),
    ):
        with pytest.raises(Unavailable, match="does not answer") as refused:
            call()
        assert "secret" not in refused.value.message
    warm._bucket = away
    assert weights_of(warm, checkpoint) == b"weights"


def test_a_bucket_that_does_not_exist_is_named(s3: ObjectStore, tmp_path: Path):
    store = S3CheckpointStore(Bucket("no-such-bucket", "", s3.client), CheckpointCache(tmp_path, 2**30))
    with pytest.raises(Unavailable, match="s3://no-such-bucket/ cannot be used, it answers NoSuchBucket"):
        list(store.stored())


@pytest.mark.slow
def test_more_objects_than_one_page_are_all_seen_and_all_removed(place: S3Place):
    store = place.open()
    checkpoint = publish(store)
    folder = f"{MODEL.hex}/{checkpoint.hex}/adapter"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: place.path(f"{folder}/{n:04d}").write_bytes(b"x"), range(1005)))
    assert len(list(store._bucket.list())) == 1008
    assert [stored.has_state for stored in store.stored()] == [True], "its state comes on the second page"
    store.remove(MODEL, checkpoint)
    assert place.names() == []


def fill(cache: CheckpointCache, name: str, num_bytes: int, *, hold: bool = False) -> Path:
    with cache.staging(name) as staged:
        (staged / "x").write_bytes(b"x" * num_bytes)
        return cache.keep(staged, name, hold=hold)


def test_the_copy_that_was_not_used_for_longest_goes_first_and_never_one_that_is_held(tmp_path: Path):
    mine, others = CheckpointCache(tmp_path, 100), CheckpointCache(tmp_path, 100)
    names = [f"{number:032x}.{number:032x}.adapter" for number in range(5)]
    held = fill(mine, names[0], 40, hold=True)
    used, unused = fill(mine, names[1], 30), fill(mine, names[2], 30)
    for age_s, folder in ((30, held), (20, used), (10, unused)):
        os.utime(folder, (1e9 - age_s, 1e9 - age_s))
    assert mine.hold(names[1]) is not None, "which makes it the newest"
    mine.release(names[1])
    fill(others, names[3], 30)
    assert held.exists()
    assert used.exists()
    assert not unused.exists()
    assert not others.discard(names[0])
    mine.release(names[0])
    fill(others, names[4], 90)
    assert not held.exists()


def test_making_room_for_copies_of_checkpoints_removes_nothing_else_of_their_folder(tmp_path: Path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_bytes(b"x" * 500)
    older, newer = (fill(CheckpointCache(tmp_path, 100), f"{n:032x}.{n:032x}.state", 80) for n in range(2))
    assert (tmp_path / "postgres" / "PG_VERSION").exists()
    assert not older.exists()
    assert newer.exists()


def test_a_copy_that_was_harmed_on_the_disk_is_fetched_again(place: S3Place, tmp_path: Path):
    store = open_checkpoint_store(place.url)
    assert isinstance(store, S3CheckpointStore)
    checkpoint = publish(store)
    (copy,) = (tmp_path / "cache").glob("*.adapter/adapter/adapter_model.safetensors")
    copy.write_bytes(b"wEights")
    assert weights_of(store, checkpoint) == b"weights"


def test_processes_of_a_machine_download_a_checkpoint_once(
    proxy: FlakyProxy, place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = publish(place.open())
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    bucket = Bucket(BUCKET, place.prefix, connect())
    stores = [S3CheckpointStore(bucket, CheckpointCache(tmp_path / "shared", 2**30)) for _ in range(4)]
    together = threading.Barrier(len(stores))

    def read(store: S3CheckpointStore) -> bytes:
        together.wait()
        return weights_of(store, checkpoint)

    with ThreadPoolExecutor(len(stores)) as threads:
        assert list(threads.map(read, stores)) == [b"weights"] * len(stores)
    fetched = [path for method, path in proxy.requests if method == "GET" and "adapter_model" in path]
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://", "names a bucket"),
        ("s3://key:very-secret@bucket", "credentials belong in AWS_ACCESS_KEY_ID"),
        ("s3://bucket?cache=here", "not an absolute path"),
        ("s3://bucket?cache_gib=none", "not a positive number"),
        ("s3://bucket?cache_gib=inf", "not a positive number"),
        ("s3://bucket?cash=1", "and no others"),
    ],
)
def test_a_url_that_is_none_is_refused_with_a_sentence(url: str, sentence: str):
    with pytest.raises(ValueError, match=sentence) as refused:
        open_checkpoint_store(url)
    assert "very-secret" not in str(refused.value)


def test_leftovers_are_still_found_where_uploads_may_not_be_listed(
    proxied: S3CheckpointStore, proxy: FlakyProxy, place: S3Place
):
    place.leave_behind(b"half")
    proxy.trouble = lambda method, path: "slow down" if "uploads" in path else None
    assert [name.count("/") for name, _ in proxied.left_over()] == [2]
