"""Migrations leave planes of the release before what these use."""

from __future__ import annotations

from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic import op

from migrations.indexes import create_index_concurrently
from tests.unit.store.expanding import harmful, migrations_under_the_rule


@pytest.mark.parametrize("migration", migrations_under_the_rule(), ids=lambda migration: migration.revision)
def test_every_migration_since_the_rule_expands_or_is_marked(migration: ModuleType):
    assert harmful(migration) == []


def migration_of(upgrade, **marks) -> ModuleType:
    module = ModuleType("migration")
    vars(module).update(upgrade=upgrade, **marks)
    return module


def drops_a_column() -> None:
    op.drop_column("models", "slug")


def drops_a_table() -> None:
    op.drop_table("models")


def renames() -> None:
    op.alter_column("models", "slug", new_column_name="name")


def adds_what_older_ones_do_not_fill() -> None:
    op.add_column("models", sa.Column("owner", sa.Text(), nullable=False))


def forbids_null() -> None:
    op.alter_column("models", "slug", nullable=False)


def adds_a_constraint() -> None:
    op.create_unique_constraint("uq_models_slug", "models", ["slug"])


def keeps_writers_out() -> None:
    op.create_index("ix_models_slug", "models", ["slug"])


def may_refuse_what_older_ones_write() -> None:
    create_index_concurrently("ix_models_slug", "models", ["slug"], unique=True)


def changes_rows() -> None:
    op.execute("update models set slug = lower(slug)")


HARMFUL = [
    drops_a_column,
    drops_a_table,
    renames,
    adds_what_older_ones_do_not_fill,
    forbids_null,
    adds_a_constraint,
    keeps_writers_out,
    may_refuse_what_older_ones_write,
    changes_rows,
]


@pytest.mark.parametrize("upgrade", HARMFUL, ids=lambda upgrade: upgrade.__name__)
def test_what_older_releases_would_notice_is_found(upgrade):
    assert len(harmful(migration_of(upgrade))) == 1


def expands() -> None:
    op.create_table("owners", sa.Column("name", sa.Text(), primary_key=True))
    op.create_index("ix_owners_name", "owners", ["name"], unique=True)
    op.execute("insert into owners (name) values ('nobody')")
    op.add_column("models", sa.Column("owner", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("shown", sa.Boolean(), server_default=sa.true(), nullable=False))
    create_index_concurrently("ix_models_owner", "models", ["owner"])


def test_what_older_releases_do_not_notice_is_let_through():
    assert harmful(migration_of(expands)) == []


def test_a_statement_with_its_reason_and_a_contraction_are_let_through():
    reason = {"update models set slug": "slugs are compared without regard to case in every release"}
    assert harmful(migration_of(changes_rows, SAFE_BESIDE=reason)) == []
    assert harmful(migration_of(drops_a_column, contract=object())) == []
