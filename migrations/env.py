"""Alembic's entry point: a transaction for each migration, under an advisory lock so that racing processes take turns.

The lock is held by a connection of its own, which waits outside of a transaction: an index that is made concurrently
waits for every transaction that is under way.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Engine, create_engine, text

from store.tables import Base

_LOCK = 7_208_115_201
_LOOK_AGAIN_S = 0.05


def run() -> None:
    engine = create_engine(context.config.attributes["url"])
    with _turn(engine), engine.connect() as connection:
        connection.execute(text("set lock_timeout = '2s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


@contextmanager
def _turn(engine: Engine) -> Generator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(text(f"select pg_try_advisory_lock({_LOCK})")):
            time.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            connection.execute(text(f"select pg_advisory_unlock({_LOCK})"))


run()
