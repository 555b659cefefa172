"""A server's side of websockets: uvicorn's, which would log the addresses of those that it accepts, and clients write
their keys there. For uvicorn's `ws=`, with `WEBSOCKET_OPTIONS`."""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

WEBSOCKET_OPTIONS: dict[str, Any] = {
    "ws_max_size": 1024 * 1024,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 60.0,  # a client that writes much, to an environment that reads slowly, answers late
    "ws_per_message_deflate": False,  # costs more time than it saves between machines of one network
}

_quiet = logging.getLogger("headway.websockets")
_quiet.setLevel(logging.WARNING)


class QuietWebSockets(WebSocketsSansIOProtocol):
    """Logs faults alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _quiet
        self.conn.logger = _quiet

    async def send(self, message: Any) -> None:
        """uvicorn takes a handshake that was refused with a response for one that never ended, and logs that as a
        fault; one that is refused by a close it takes for complete."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True
