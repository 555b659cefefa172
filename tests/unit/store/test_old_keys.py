"""Keys that were made before there were roles may do what they could."""

from __future__ import annotations

import uuid

import psycopg
from alembic import command

from store.database import normalise_url, psycopg_dsn
from store.migrations import alembic_config
from tests.unit.store.conftest import new_database


def test_keys_of_before_keep_their_rights_through_the_migration(postgres_url: str):
    with new_database(postgres_url) as url:
        config = alembic_config(url)
        command.upgrade(config, "0004")
        with psycopg.connect(psycopg_dsn(normalise_url(url)), autocommit=True) as connection:
            team = uuid.uuid4()
            connection.execute("insert into teams (id, name) values (%s, 'old')", [team])
            for name, is_admin in (("plain", False), ("root", True)):
                connection.execute(
                    "insert into api_keys (id, team_id, name, prefix, key_hash, is_admin) "
                    "values (%s, %s, %s, '', %s, %s)",
                    [uuid.uuid4(), team, name, name.encode(), is_admin],
                )
            command.upgrade(config, "0005")
            rows = connection.execute("select name, role, scopes, model_ids, expires_at from api_keys order by name")
            assert rows.fetchall() == [
                ("plain", "member", ["read", "sample", "train"], None, None),
                ("root", "admin", ["read", "sample", "train", "keys", "admin"], None, None),
            ]
            command.downgrade(config, "0004")
            rows = connection.execute("select name, is_admin from api_keys order by name")
            assert rows.fetchall() == [("plain", False), ("root", True)]
