"""The Tinker API, as its SDK calls it."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.tinker import (
    checkpoints,
    downloads,
    futures,
    handshake,
    loading,
    runs,
    sampling,
    saving,
    session_records,
    sessions,
    tokenizers,
    training,
    training_runs,
    uploads,
)

TINKER = Protocol(
    (
        training.router,
        sampling.router,
        futures.router,
        saving.router,
        runs.router,
        loading.router,
        handshake.router,
        sessions.router,
        training_runs.router,
        downloads.router,
        checkpoints.router,
        session_records.router,
        tokenizers.router,
        uploads.router,
    )
)
