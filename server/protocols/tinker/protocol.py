"""The Tinker API, as its SDK calls it."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.tinker import handshake, sessions

TINKER = Protocol((handshake.router, sessions.router))
