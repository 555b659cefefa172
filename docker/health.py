"""Is this container well? `http PORT`: /healthz answers, over TLS where HEADWAY_TLS_CERT is set. `https PORT`: it
answers over TLS. `trainer`: the database heard of the trainer here lately."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from http.client import HTTPConnection, HTTPSConnection

_TIMEOUT_S = 4


def answers(port: int, *, is_tls: bool) -> bool:
    """Whether the process in this container serves requests. Its certificate has another name than 127.0.0.1, and
    nothing secret is sent, so it is not checked."""
    if is_tls:
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", port, timeout=_TIMEOUT_S, context=unchecked)
    else:
        connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
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
    if sys.argv[1] in ("http", "https"):
        is_well = answers(int(sys.argv[2]), is_tls=sys.argv[1] == "https" or bool(os.environ.get("HEADWAY_TLS_CERT")))
    else:
        is_well = is_heard_of(os.environ["HEADWAY_DATABASE_URL"], socket.gethostname())
    sys.exit(not is_well)
