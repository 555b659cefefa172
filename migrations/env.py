"""Alembic's entry point: one transaction, under an advisory lock so that racing processes take turns."""

from alembic import context
from sqlalchemy import create_engine, text

from store.tables import Base

_LOCK = 7_208_115_201


def run() -> None:
    engine = create_engine(context.config.attributes["url"])
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text(f"select pg_advisory_xact_lock({_LOCK})"))
            context.run_migrations()
    engine.dispose()


run()
