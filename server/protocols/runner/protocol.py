"""The API of runners."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.runner import endpoints

RUNNER = Protocol((), first=(endpoints.router,))
