"""The pages as a protocol beside those for programs."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.pages.router import rest, router

PAGES = Protocol((router,), last=(rest,))
