"""The Tinker API, as its SDK calls it."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.tinker import (
    checkpoints,
    downloads,
    handshake,
    sampling,
    session_records,
    sessions,
    tokenizers,
    training_runs,
)

TINKER = Protocol(
    (
        handshake.router,
        sessions.router,
        sampling.router,
        training_runs.router,
        downloads.router,
        checkpoints.router,
        session_records.router,
        tokenizers.router,
    )
)
