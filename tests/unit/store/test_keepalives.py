"""Connections whose other side may be gone without a word."""

from __future__ import annotations

import psycopg

from store.database import normalise_url, psycopg_dsn
from store.keepalives import SERVER


def test_every_connection_notices_a_lost_server_by_tcp_limits():
    found = psycopg.conninfo.conninfo_to_dict(psycopg_dsn(normalise_url("postgresql://u:p@db.example:5432/headway")))
    assert (found["connect_timeout"], found["keepalives_idle"], found["tcp_user_timeout"]) == ("5", "5", "10000")


def test_limits_that_a_url_has_itself_hold():
    dsn = psycopg_dsn(normalise_url("postgresql://u:p@db.example/headway?connect_timeout=30&sslmode=require"))
    found = psycopg.conninfo.conninfo_to_dict(dsn)
    assert (found["connect_timeout"], found["keepalives_count"], found["sslmode"]) == ("30", "3", "require")


def test_a_session_may_set_the_limits_of_postgresqls_side(database):
    with database.connection() as connection:
        connection.execute(SERVER)
        assert connection.execute("show tcp_user_timeout").fetchone() is not None
