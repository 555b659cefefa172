"""`headway doctor` finds what a place cannot reach, or may not do, and says what to do about it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import create_default_context
from uuid import UUID

import psycopg
import pytest
from typer.testing import CliRunner

from cli.doctor.bounded import examined
from cli.doctor.calling import Trust, Unreachable, call
from cli.doctor.clocks import Asked, clock_finding, http_clock_finding
from cli.doctor.database import check_database
from cli.doctor.finding import Finding, State
from cli.doctor.place import Place
from cli.doctor.plane import Plane
from cli.doctor.stores import check_store
from cli.main import app
from store.catalog import ensure_base
from store.database import Database, normalise_url, psycopg_dsn
from store.planes.registration import fall_silent, register_sampler, register_trainer, trainer_ready
from store.tables import SamplerRow
from tests.certificates import Authority
from tests.flaky_proxy import flaky_proxy
from tests.http_servers import serving
from tests.object_store import BUCKET, ObjectStore, environment
from wire.loaded import Loaded, store_fingerprint, version_of
from wire.process.tls import TlsSettings, listening_context, trusting_context

TRUST = Trust(create_default_context())


def by_check(findings: list[Finding], part: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings if finding.part == part}


def test_a_database_that_may_be_used_is_described(database: Database, postgres_url: str):
    found = by_check(check_database(postgres_url), "PostgreSQL")
    assert {f.what: f.state for f in found.values() if f.state not in (State.OK, State.NOTE)} == {}
    assert found.keys() == {"reachable", "version", "encryption", "schema", "rights", "connections", "clock"}
    assert "Unix socket" in found["encryption"].found


def test_a_database_user_without_rights_is_named_the_tables(database: Database, postgres_url: str):
    url = normalise_url(postgres_url)
    with psycopg.connect(psycopg_dsn(url), autocommit=True) as connection:
        connection.execute("drop role if exists reader")
        connection.execute("create role reader login password 'not-printed'")
        connection.execute("grant select on all tables in schema public to reader")
    reader = url.set(username="reader", password="not-printed").render_as_string(hide_password=False)
    rights = by_check(check_database(reader), "PostgreSQL")["rights"]
    assert rights.state is State.NOT_OK
    assert "models" in rights.found
    assert rights.remedy.startswith("grant select, insert, update and delete")
    with psycopg.connect(psycopg_dsn(url), autocommit=True) as connection:
        connection.execute("drop owned by reader")
        connection.execute("drop role reader")


def test_a_database_of_an_older_schema_is_to_be_migrated(database: Database, postgres_url: str):
    with psycopg.connect(psycopg_dsn(normalise_url(postgres_url))) as connection:
        (known,) = connection.execute("select version_num from alembic_version").fetchone() or ("",)
        connection.execute("update alembic_version set version_num = '0001'")
        connection.commit()
        schema = by_check(check_database(postgres_url), "PostgreSQL")["schema"]
        connection.execute("update alembic_version set version_num = %s", (known,))
    assert (schema.state, schema.remedy.startswith("run `headway migrate`")) == (State.NOT_OK, True)


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path):
    found = check_store("blob store", f"file://{tmp_path}")
    assert [(f.what, f.state) for f in found] == [("rights", State.OK), ("free disk", State.OK)]
    assert [*tmp_path.iterdir()] == []
    (absent, _) = check_store("blob store", f"file://{tmp_path}/absent")
    assert absent.state is State.NOTE


def test_a_folder_in_which_nobody_can_write_is_said(tmp_path: Path):
    (tmp_path / "file").touch()
    found, _ = check_store("checkpoint store", f"file://{tmp_path}/file")
    assert (found.state, found.found) == (State.NOT_OK, f"{tmp_path}/file: Not a directory")


def test_a_full_disk_needs_room_and_no_rights(small_disk: Path):
    with suppress(OSError), (small_disk / "all of it").open("wb") as file:
        file.write(bytes(4 * 2**20))
    found, of_room = check_store("blob store", f"file://{small_disk}")
    assert (found.what, found.state, found.remedy) == ("rights", State.NOT_OK, "make room, or `headway gc`")
    assert of_room.state is State.NOT_OK
    assert [path.name for path in small_disk.iterdir()] == ["all of it"]


def test_a_url_that_names_no_bucket_that_there_could_be_is_said(s3: ObjectStore):
    (found,) = check_store("blob store", "s3://Not_A_Bucket!/prefix")
    assert found.found == "the URL names no bucket that there could be"
    assert "store's URL" in found.remedy


def test_what_is_no_object_store_is_no_lack_of_rights(monkeypatch: pytest.MonkeyPatch):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        do_PUT = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    with serving(server):
        for name, value in environment(f"http://127.0.0.1:{server.server_port}").items():
            monkeypatch.setenv(name, value)
        found = check_store("blob store", "s3://bucket/prefix")
    wrong = [each for each in found if each.state is State.NOT_OK]
    assert wrong
    assert {each.remedy for each in wrong} == {"see that AWS_ENDPOINT_URL names an object store that can do this"}


def test_a_probe_whose_parts_are_refused_leaves_no_upload(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    with flaky_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.trouble = lambda method, path: "skewed" if "partNumber" in path else None
        found = by_check(check_store("blob store", f"s3://{BUCKET}/refused"), "blob store")
    assert found["write in parts"].state is State.NOT_OK
    assert s3.client.list_multipart_uploads(Bucket=BUCKET, Prefix="refused").get("Uploads", []) == []
    assert s3.keys("refused") == []


def test_what_hangs_is_given_up_and_what_was_found_before_is_kept():
    hangs = threading.Event()

    def examine() -> Iterator[Finding]:
        yield Finding("blob store", "list", State.OK, "in 1 ms")
        hangs.wait()

    found = examined("blob store", examine, most_s=0.05)
    hangs.set()
    assert [(each.what, each.state) for each in found] == [("list", State.OK), ("reachable", State.NOT_OK)]


def test_an_answer_that_comes_a_byte_at_a_time_has_an_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cli.doctor.calling._MOST_S", 0.3)

    class Dribbling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            with suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dribbling)
    with serving(server), pytest.raises(Unreachable, match="no whole answer within"):
        call("sampler", "GET", f"http://127.0.0.1:{server.server_port}/healthz", TRUST)


def test_every_right_in_a_bucket_is_used_and_nothing_is_left(s3: ObjectStore):
    found = check_store("blob store", f"s3://{BUCKET}/doctor?cache=/nowhere")
    assert {f.what: f.state for f in found} == dict.fromkeys(
        ("list", "clock", "write", "read", "write in parts", "list parts", "delete"), State.OK
    )
    assert s3.keys("doctor") == []
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET, Prefix="doctor").get("Uploads")


def test_the_prefix_is_that_of_the_store_whatever_is_in_it(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("cli.doctor.buckets.check_bucket", lambda part, name, prefix: asked.append((name, prefix)))
    check_store("blob store", "s3://bucket/two%20words/é/?cache=/nowhere")
    assert asked == [("bucket", "two words/é")]


@pytest.mark.parametrize("url", ["file://data/blobs", "file://", "s3://", "s3://bucket?cash=1", "s3://k:secret@b"])
def test_a_url_that_names_no_store_is_said(url: str):
    (found,) = check_store("blob store", url)
    assert (found.state, found.remedy) == (State.NOT_OK, "mend the store's URL")
    assert "secret" not in found.found


def test_a_bucket_that_does_not_exist_is_said_once(s3: ObjectStore):
    found = check_store("blob store", "s3://no-such-bucket/x")
    refused = [f for f in found if f.state is State.NOT_OK]
    assert {f.found for f in refused} == {"it answers NoSuchBucket"}
    assert refused[0].remedy.startswith("make the bucket")


class Forbids(BaseHTTPRequestHandler):
    """A store whose clock is an hour behind, and which allows nothing."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response_only(403)
        self.send_header("Date", formatdate(time.time() - 3600, usegmt=True))
        body = b"<Error><Code>AccessDenied</Code><Message>with a-secret-of-the-tests</Message></Error>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def forbidding(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    with serving(server):
        yield


def test_each_right_that_is_refused_is_named_with_what_allows_it(forbidding: None):
    found = {f.what: f for f in check_store("blob store", "s3://bucket/x")}
    assert found["delete"].remedy == "allow s3:DeleteObject to these credentials"
    assert found["read"].state is State.UNKNOWN, "there is nothing that it could be refused"
    assert found["list"].remedy == "allow s3:ListBucket to these credentials"
    assert found["clock"].state is State.NOT_OK
    assert "ahead of it" in found["clock"].found
    assert "secret" not in repr(found)


def test_a_store_that_does_not_answer_is_asked_once(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    (found,) = check_store("blob store", "s3://bucket/x")
    assert (found.state, found.remedy) == (State.NOT_OK, "check AWS_ENDPOINT_URL")


@pytest.mark.parametrize(
    ("there", "ahead_s"), [(100.0, 0.0), (105.0, 0.0), (110.0, 0.0), (90.0, 10.0), (3710.0, -3600.0)]
)
def test_the_time_that_an_answer_took_is_no_difference_of_clocks(there: float, ahead_s: float):
    assert Asked(100.0, 110.0).ahead_s(there) == ahead_s


def test_clocks_an_hour_apart_are_not_ok_in_either_direction():
    asked = Asked(7200.0, 7200.1)
    assert [clock_finding("p", asked, there).state for there in (3600.0, 10800.0)] == [State.NOT_OK] * 2
    behind = http_clock_finding("p", asked, formatdate(10800.0, usegmt=True))
    assert behind is not None
    assert "3600 s behind it" in behind.found
    even = http_clock_finding("p", Asked(7200.9, 7200.95), formatdate(7200.0, usegmt=True))
    assert even is not None
    assert even.state is State.OK
    assert http_clock_finding("p", asked, None) is None


def place(postgres_url: str, tmp_path: Path, **changes) -> Place:
    stores = {"checkpoints": f"file://{tmp_path}"}
    given = {"trust": TRUST, "database_url": postgres_url, "stores": stores, **changes}
    return Place(Plane.SERVER, tmp_path, **given)


def add_sampler(database: Database, url: str, loaded: Loaded | None = None) -> UUID:
    with database.session() as session:
        return register_sampler(session, ensure_base(session, "b", "/models/b"), url, "local", loaded)


def the_sampler(findings: list[Finding]) -> dict[str, Finding]:
    return by_check(findings, f"sampler {socket.gethostname()}")


def test_a_sampler_that_does_not_listen_is_named_with_its_address(
    database: Database, postgres_url: str, tmp_path: Path
):
    port = closed_port()
    add_sampler(database, f"http://127.0.0.1:{port}")
    found = the_sampler(place(postgres_url, tmp_path).examine()[0])["reachable"]
    assert (found.state, f"127.0.0.1:{port}" in found.found) == (State.NOT_OK, True)


def test_a_sampler_that_listens_without_the_tls_that_it_promised_is_said(
    database: Database, postgres_url: str, tmp_path: Path
):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    add_sampler(database, f"https://127.0.0.1:{server.server_address[1]}")
    with serving(server):
        found = the_sampler(place(postgres_url, tmp_path).examine()[0])["TLS"]
    assert (found.state, "does not speak https" in found.found) == (State.NOT_OK, True)


class Well(Forbids):
    """A sampler, as far as it is asked."""

    def answer(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = answer


def test_certificates_of_samplers_are_checked_as_servers_check_them(
    database: Database, postgres_url: str, tmp_path: Path
):
    authority = Authority(tmp_path)
    certificate = authority.certify("samplers.headway.internal")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    listening = listening_context(TlsSettings(certificate.cert, certificate.key))
    assert listening is not None
    server.socket = listening.wrap_socket(server.socket, server_side=True)
    add_sampler(database, f"https://127.0.0.1:{server.server_address[1]}")
    ours = trusting_context(authority.file)
    trusts = [TRUST, Trust(ours), Trust(ours, "others.internal"), Trust(ours, "samplers.headway.internal")]
    with serving(server):
        found = [the_sampler(place(postgres_url, tmp_path, trust=trust).examine()[0]) for trust in trusts]
    refusals = [each["TLS"].found.partition(": ")[2] for each in found[:3]]
    assert "unable to get local issuer" in refusals[0]
    assert "not valid for '127.0.0.1'" in refusals[1]
    assert "not valid for 'others.internal'" in refusals[2]
    assert found[3]["reachable"].found.endswith("over TLS")


def test_samplers_are_called_by_servers_alone(database: Database, postgres_url: str, tmp_path: Path):
    add_sampler(database, "http://127.0.0.1:1")
    given = {"database_url": postgres_url, "stores": {}}
    assert the_sampler(Place(Plane.TRAINER, tmp_path, TRUST, **given).examine()[0]) == {}


def test_the_trouble_of_a_sampler_is_shown(database: Database, postgres_url: str, tmp_path: Path):
    sampler_id = add_sampler(database, "http://127.0.0.1:1")
    with database.session() as session:
        fall_silent(session, sampler_id, "its vLLM has ended")
    found = the_sampler(place(postgres_url, tmp_path).examine()[0])["trouble"]
    assert (found.state, found.found) == (State.NOT_OK, "its vLLM has ended")


def test_planes_of_other_versions_are_noted_and_of_other_stores_not_ok(
    database: Database, postgres_url: str, tmp_path: Path
):
    elsewhere = {"checkpoints": store_fingerprint("s3://elsewhere/x"), "blobs": store_fingerprint("s3://elsewhere/b")}
    with database.session() as session:
        trainer_id = register_trainer(session, ensure_base(session, "b", "/models/b"), {}, is_loading=True)
        trainer_ready(session, trainer_id, {}, Loaded(version="0.0.1", stores=elsewhere))
    findings, _ = place(postgres_url, tmp_path).examine()
    versions = by_check(findings, "planes")["versions"]
    assert (versions.state, "0.0.1" in versions.found) == (State.NOTE, True)
    stores = by_check(findings, "checkpoint store")["one for all"]
    assert (stores.state, stores.found.startswith("trainer ")) == (State.NOT_OK, True)
    assert "HEADWAY_CHECKPOINT_STORE" in stores.remedy


def test_a_plane_of_a_release_that_names_no_schema_is_noted(database: Database, postgres_url: str, tmp_path: Path):
    ours = version_of("headway")
    sampler_id = add_sampler(database, f"http://127.0.0.1:{closed_port()}", Loaded(version=ours))
    assert by_check(place(postgres_url, tmp_path).examine()[0], "planes")["versions"].state is State.OK
    add_sampler(database, f"http://127.0.0.1:{closed_port()}", Loaded(version=ours))
    with database.session() as session:
        session.get_one(SamplerRow, sampler_id).details = {"version": ours}
    assert by_check(place(postgres_url, tmp_path).examine()[0], "planes")["versions"].state is State.NOTE


def headway(url: str, folder: Path, *arguments: str):
    environment = {"HEADWAY_DATABASE_URL": url, "HEADWAY_DATA_DIR": str(folder), "COLUMNS": "200"}
    return CliRunner().invoke(app, ["doctor", *arguments], env=environment)


def test_the_command_prints_a_table_or_json_and_fails_where_something_is_not_ok(
    database: Database, postgres_url: str, tmp_path: Path
):
    done = headway(postgres_url, tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("part\tcheck\tresult\tfound\twhat_to_do\nPostgreSQL\treachable\t")
    assert done.stdout.rstrip().endswith("invariants hold")
    assert "blob store\treachable\tnot checked\tnone is named here" in done.stdout
    (tmp_path / "blobs").mkdir()
    shown = json.loads(headway(postgres_url, tmp_path, "--json").stdout)
    assert ("blob store", "rights", "ok") in {(c["part"], c["what"], c["state"]) for c in shown["checks"]}
    assert {check["state"] for check in shown["checks"]} <= {"ok", "note", "not checked"}
    (tmp_path / "file").touch()
    ill = headway(postgres_url, tmp_path, "--checkpoint-store", f"file://{tmp_path}/file")
    assert ill.exit_code == 1
    assert "checkpoint store\trights\tnot ok" in ill.stdout


def test_no_password_is_printed_of_a_database_that_does_not_answer(tmp_path: Path):
    done = headway(f"postgresql://u:not-printed@127.0.0.1:{closed_port()}/d", tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith("headway: the database does not answer")
    assert "PostgreSQL\treachable\tnot ok" in done.stdout
    assert "blob store" in done.stdout  # what can be checked is checked
    assert "not-printed" not in done.output + done.stderr


def test_a_runner_needs_a_server_and_a_key(tmp_path: Path):
    assert "give --server" in headway("", tmp_path, "--as", "runner").stderr
    assert "a runner needs a key" in headway("", tmp_path, "--as", "runner", "--server", "http://x").stderr


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
