"""uvicorn over TLS with files that may be replaced. (Its own options read them once.)"""

from __future__ import annotations

from typing import Any

import uvicorn

from wire.process.tls import TlsSettings, listening_context


class TlsConfig(uvicorn.Config):
    """uvicorn's configuration; each process that serves by it makes its own TLS context."""

    def __init__(self, app: Any, *, tls: TlsSettings, **options: Any) -> None:
        super().__init__(app, **options)
        self._tls = tls

    def load(self) -> None:
        """uvicorn's hook. Raises OSError, ValueError for files that make no certificate."""
        super().load()
        self.ssl = listening_context(self._tls)
