"""What the operator already has, each on a host of its own: a PostgreSQL and an object store that speaks S3."""

from __future__ import annotations

import pwd
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import psycopg

from store.embedded import EmbeddedPostgres
from tests.conftest import database_folder
from tests.fleet.network import Host, Network
from tests.fleet.process import REPOSITORY
from tests.object_store import BUCKET, environment

S3_PORT = 9000
_START_S = 60.0
_CONNECTIONS = 250
"""Sixty for each of three servers while one is replaced, twenty for each trainer, a few for each sampler; PostgreSQL's
default is 100, with which two servers leave none to a run."""
_RULES = "local all all scram-sha-256\nhost all all 0.0.0.0/0 scram-sha-256\n"
_DATABASE = "headway"


@dataclass(frozen=True)
class Backing:
    """`s3_environment`: the variables with which a process reaches the object store, which has one bucket."""

    postgres: Host
    s3: Host
    database_url: str
    s3_endpoint: str

    @property
    def s3_environment(self) -> dict[str, str]:
        proxies = {"NO_PROXY": "*"}
        return {**environment(self.s3_endpoint), **proxies}

    @property
    def s3_arguments(self) -> dict[str, str]:
        """Of a client of boto3's."""
        named = self.s3_environment
        return {
            "endpoint_url": named["AWS_ENDPOINT_URL"],
            "region_name": named["AWS_DEFAULT_REGION"],
            "aws_access_key_id": named["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": named["AWS_SECRET_ACCESS_KEY"],
        }

    def connect(self) -> psycopg.Connection:
        """A connection of the tests, from PostgreSQL's own host."""
        with self.postgres.inside():
            return psycopg.connect(self.database_url, autocommit=True)


@contextmanager
def backing(network: Network) -> Iterator[Backing]:
    """Both answer when the block begins."""
    with database_folder() as folder:
        postgres, s3 = network.host("postgres"), network.host("s3")
        postgres.clock_offset_s = s3.clock_offset_s = 0.0  # clocks of their own, which can be set later
        url = _start_postgres(postgres, folder / "postgres")
        endpoint = _start_object_store(s3)
        yield Backing(postgres, s3, url, endpoint)
        network.end(postgres)


def _start_postgres(host: Host, folder: Path) -> str:
    """The binaries of the embedded one, which listen on the host's network here."""
    embedded = EmbeddedPostgres(folder)
    command, user = embedded.command, embedded.user
    password, role = secrets.token_urlsafe(16), "headway"
    with psycopg.connect(embedded.url, autocommit=True) as connection:
        connection.execute(f"create role {role} login password '{password}'".encode())
        connection.execute(f"create database {_DATABASE} owner {role}".encode())
    embedded.stop()
    (folder / "pg_hba.conf").write_text(_RULES)
    command[command.index("-h") + 1] = "0.0.0.0"
    command[command.index("-D") + 1] = "."
    command += ["-c", f"max_connections={_CONNECTIONS}"]
    uid = pwd.getpwnam(user).pw_uid if user else 0
    host.start(command, {"LC_ALL": "C"}, mounts={str(folder): folder}, uid=uid, cwd=str(folder))
    url = f"postgresql://{role}:{password}@{host.address}:5432/{_DATABASE}"

    def answers() -> bool:
        try:
            with host.inside():
                psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    _wait_for(answers, host)
    return url


def _start_object_store(host: Host) -> str:
    endpoint = f"http://{host.address}:{S3_PORT}"
    command = [sys.executable, "-m", "tests.fleet.timed_store", "0.0.0.0", str(S3_PORT)]
    host.start(command, {"PYTHONPATH": str(REPOSITORY)}, cwd=str(REPOSITORY))

    def answers() -> bool:
        try:
            with host.inside():
                build_opener(ProxyHandler({})).open(f"{endpoint}/moto-api/", timeout=5).close()
        except (URLError, OSError):
            return False
        return True

    _wait_for(answers, host)
    _make_bucket(host, endpoint)
    return endpoint


def _make_bucket(host: Host, endpoint: str) -> None:
    import boto3

    named = environment(endpoint)
    with host.inside():
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=named["AWS_DEFAULT_REGION"],
            aws_access_key_id=named["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=named["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket=BUCKET)


def _wait_for(condition: Callable[[], bool], host: Host) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        said = (host.folder / "log").read_text(errors="replace")
        assert time.monotonic() < deadline, f"{host.name} did not answer in {_START_S} s\n{said[-3000:]}"
        time.sleep(0.1)
