"""How soon each side of a database connection notices that the other is gone without a word.

A machine that loses its power, and a link that drops packets, close no connection. Whoever waits for an answer would
wait for a quarter of an hour by TCP's own limits; and PostgreSQL would keep the locks of a transaction for two hours.
Without effect on sockets of this machine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

_CLIENT = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""libpq's, in seconds but the last, which is in milliseconds: for what was sent, and is not acknowledged."""

SERVER = (
    b"set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3;"
    b" set tcp_user_timeout = 10000"
)
"""The same of PostgreSQL's side, for a session. No startup parameters: poolers before PostgreSQL refuse those."""


def with_keepalives(url: URL) -> URL:
    """The URL with the client's limits, but for those that it has itself."""
    return url.update_query_dict({name: value for name, value in _CLIENT.items() if name not in url.query})


def notice_lost_clients(engine: Engine) -> None:
    """Have PostgreSQL end each of the engine's connections soon after this machine vanished."""

    def begin(connection: Any, *_: object) -> None:
        before, connection.autocommit = connection.autocommit, True  # a rollback would take the settings back
        cursor = connection.cursor()
        cursor.execute(SERVER)
        cursor.close()
        connection.autocommit = before

    event.listen(engine, "connect", begin)
