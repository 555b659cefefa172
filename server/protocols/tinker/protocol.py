"""The Tinker API, as its SDK calls it."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.tinker.futures import router as futures
from server.protocols.tinker.handshake import router as handshake
from server.protocols.tinker.records.checkpoints import router as checkpoints
from server.protocols.tinker.records.downloads import router as downloads
from server.protocols.tinker.records.session_records import router as session_records
from server.protocols.tinker.records.tokenizers import router as tokenizers
from server.protocols.tinker.records.training_runs import router as training_runs
from server.protocols.tinker.records.uploads import router as uploads
from server.protocols.tinker.sampling.endpoints import router as sampling
from server.protocols.tinker.sessions import router as sessions
from server.protocols.tinker.training.endpoints import router as training
from server.protocols.tinker.training.loading import router as loading
from server.protocols.tinker.training.runs import router as runs
from server.protocols.tinker.training.saving import router as saving

TINKER = Protocol(
    (
        sampling,
        saving,
        runs,
        loading,
        handshake,
        sessions,
        training_runs,
        downloads,
        checkpoints,
        session_records,
        tokenizers,
        uploads,
    ),
    first=(training, futures),
)
