from __future__ import annotations

import pytest
from alembic import command

from store.database import normalise_url
from store.migrations import alembic_config, upgrade


def test_the_migrations_build_what_the_tables_say(postgres_url: str):
    command.check(alembic_config(postgres_url))


def test_upgrading_twice_changes_nothing(postgres_url: str):
    upgrade(postgres_url)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://u@h/d"])
def test_other_databases_are_refused(url: str):
    with pytest.raises(ValueError, match="Headway needs PostgreSQL"):
        normalise_url(url)
