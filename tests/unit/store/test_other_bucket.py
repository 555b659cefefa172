"""A service with checkpoints and blobs in a bucket moves into another one, by the commands that an operator has."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from store.database import AsyncDatabase, Database
from tests.object_store import ObjectStore
from tests.ports.blob_places import S3BlobPlace
from tests.ports.checkpoint_places import S3Place
from tests.unit.store.conftest import Estate
from tests.unit.store.rollouts.test_recorded_pictures import episode, kept, put_on_record

TABLES = ("teams", "models", "checkpoints", "operations", "traces", "samples", "pictures", "trace_pictures")


@pytest.fixture
def place_kind() -> str:
    return "s3"


class Site:
    """A database, two prefixes of a bucket, and a machine that has nothing else."""

    def __init__(self, database: Database, checkpoints: S3Place, blobs: S3BlobPlace, data_dir: Path) -> None:
        self.database, self.checkpoints, self.blobs = database, checkpoints, blobs
        self._data_dir = data_dir

    def headway(self, *arguments: str) -> Result:
        environment = {
            "HEADWAY_DATABASE_URL": self.database.url.render_as_string(hide_password=False),
            "HEADWAY_CHECKPOINT_STORE": self.checkpoints.url,
            "HEADWAY_BLOB_STORE": self.blobs.url,
            "HEADWAY_DATA_DIR": str(self._data_dir),
        }
        done = CliRunner().invoke(app, arguments, env=environment)
        assert "a-secret-of-the-tests" not in done.output
        return done

    def objects(self) -> dict[str, bytes]:
        """Everything in both prefixes, by its key."""
        found = dict[str, bytes]()
        for place in (self.checkpoints, self.blobs):
            for key in place.s3.keys(place.prefix):
                content = place.s3.client.get_object(Bucket=place.s3.bucket, Key=key)["Body"].read()
                found[key.removeprefix(f"{place.prefix}/")] = content
        return found

    def rows(self, table: str) -> list[str]:
        with self.database.connection() as connection:
            return sorted(str(row) for row in connection.execute(f"select * from {table}".encode()))


@pytest.fixture
def here(estate: Estate, tmp_path: Path) -> Site:
    assert isinstance(estate.place, S3Place)
    assert isinstance(estate.blob_place, S3BlobPlace)
    return Site(estate.database, estate.place, estate.blob_place, tmp_path / "here")


@pytest.fixture
def elsewhere(s3: ObjectStore, other_database: Database, tmp_path: Path) -> Site:
    folder = tmp_path / "elsewhere"
    return Site(other_database, S3Place(s3.other, folder), S3BlobPlace(s3.other, folder), folder)


async def lived_in(estate: Estate, database: AsyncDatabase) -> None:
    nodes = estate.steps(3)
    estate.fork(nodes[0])
    in_parts = bytes(17 * 2**20) + b"a batch that goes to the bucket in parts"
    for data in (b"a batch", in_parts):
        estate.operation("forward_backward", state="done", summary={}, result=b"x", payload_blob=estate.blobs.put(data))
    pictures = await kept(database, estate.blobs, estate.world, b"a", b"b")
    await put_on_record(database, estate.blobs, estate.world, episode(pictures))


async def test_a_service_is_restored_into_another_bucket_and_another_database(
    estate: Estate, here: Site, elsewhere: Site, async_database: AsyncDatabase, tmp_path: Path
):
    await lived_in(estate, async_database)
    written = here.headway("backup", "--to", str(tmp_path / "backup.tar"))
    assert written.exit_code == 0, written.output
    before = here.objects()

    restored = elsewhere.headway("restore", "--from", str(tmp_path / "backup.tar"))
    assert restored.exit_code == 0, restored.output
    assert elsewhere.objects() == before
    assert here.objects() == before
    assert {table: elsewhere.rows(table) for table in TABLES} == {table: here.rows(table) for table in TABLES}
    for command in (("verify",), ("doctor", "--files")):
        done = elsewhere.headway(*command)
        assert done.exit_code == 0, done.output
    again = elsewhere.headway("restore", "--from", str(tmp_path / "backup.tar"))
    assert (again.exit_code, "is not empty" in again.stderr) == (1, True)


async def test_doctor_and_verify_find_what_is_lost_and_harmed_in_the_bucket(
    estate: Estate, here: Site, async_database: AsyncDatabase
):
    await lived_in(estate, async_database)
    lost, harmed = estate.blobs.put(b"lost"), estate.blobs.put(b"harmed")
    for name in (lost, harmed):
        estate.operation("forward_backward", payload_blob=name)
    here.blobs.path(lost).unlink()
    here.blobs.path(harmed).write_bytes(b"hArmed")
    ill = here.headway("doctor", "--files")
    assert (ill.exit_code, lost in ill.stdout, harmed in ill.stdout) == (1, True, False)
    found = here.headway("verify")
    assert found.exit_code == 1
    assert f"missing: {lost}" in found.stdout
    assert f"changed: {harmed}" in found.stdout


async def test_blobs_are_copied_into_another_bucket_and_only_what_is_not_there_yet(
    estate: Estate, here: Site, elsewhere: Site, async_database: AsyncDatabase
):
    await lived_in(estate, async_database)
    estate.blobs.put(b"what no row names")
    copied = here.headway("blobs", "copy", "--to", elsewhere.blobs.url)
    assert (copied.exit_code, copied.stdout) == (0, "copied 4 blobs; 0 were there already\n")
    estate.operation("forward_backward", payload_blob=estate.blobs.put(b"came since"))
    again = here.headway("blobs", "copy", "--to", elsewhere.blobs.url)
    assert (again.exit_code, again.stdout) == (0, "copied 1 blobs; 4 were there already\n")
    assert here.headway("verify", "--blob-store", elsewhere.blobs.url).exit_code == 0
    assert here.headway("doctor", "--files", "--blob-store", elsewhere.blobs.url).exit_code == 0


def test_a_copy_names_a_blob_that_was_altered_and_copies_the_others(estate: Estate, here: Site, elsewhere: Site):
    harmed, whole = estate.blobs.put(b"harmed"), estate.blobs.put(b"whole")
    for name in (harmed, whole):
        estate.operation("forward_backward", payload_blob=name)
    here.blobs.path(harmed).write_bytes(b"hArmed")
    copied = here.headway("blobs", "copy", "--to", elsewhere.blobs.url)
    assert copied.exit_code == 1
    assert "copied 1 blobs; 0 were there already\n" in copied.stdout
    assert f"blob {harmed}" in copied.stderr
    assert "1 blobs could not be copied" in copied.stderr
    assert elsewhere.blobs.open().has(whole)
    assert not elsewhere.blobs.open().has(harmed)


def test_nothing_is_copied_into_the_store_of_another_service(estate: Estate, here: Site, elsewhere: Site):
    estate.operation("forward_backward", payload_blob=estate.blobs.put(b"ours"))
    theirs = elsewhere.blobs.open()
    theirs.claim("another")
    theirs.put(b"theirs")
    refused = here.headway("blobs", "copy", "--to", elsewhere.blobs.url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "belongs to another service" in refused.stderr
    assert "remove `owner` from the store" in refused.stderr
    assert [blob.size for blob in theirs.stored()] == [len(b"theirs")]


def test_a_copy_to_a_url_that_names_no_store_says_so(here: Site):
    refused = here.headway("blobs", "copy", "--to", "ftp://somewhere")
    assert (refused.exit_code, refused.stderr) == (1, "headway: no blob store for ftp://; known: file, s3\n")
