"""Is this container well? `http PORT`: /healthz answers. `trainer`: the database heard of the trainer here lately."""

from __future__ import annotations

import os
import socket
import sys
from http.client import HTTPConnection


def answers(port: int) -> bool:
    """Whether the process in this container serves requests."""
    connection = HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def is_heard_of(database_url: str, host: str) -> bool:
    """Whether a trainer on this host, loading or ready, has sent a heartbeat lately."""
    from sqlalchemy import exists, select

    from store.database import Database
    from store.planes.registration import is_live
    from store.tables import TrainerRow

    database = Database(database_url)
    try:
        with database.session() as session:
            return bool(session.scalar(select(exists().where(TrainerRow.host == host, is_live(TrainerRow)))))
    finally:
        database.close()


if __name__ == "__main__":
    if sys.argv[1] == "http":
        is_well = answers(int(sys.argv[2]))
    else:
        is_well = is_heard_of(os.environ["HEADWAY_DATABASE_URL"], socket.gethostname())
    sys.exit(not is_well)
