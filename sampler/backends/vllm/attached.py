"""A vLLM server that somebody else keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from sampler.backends.vllm.client import VllmClient
from sampler.backends.vllm.stall import StallWatch
from wire.errors import Unavailable

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_STALL_EVERY_S = 5.0
_OURS = "hw-"


class AttachedServer:
    """Calls `on_loss` when the server is gone, or has lost our adapters because it was started again."""

    def __init__(
        self,
        url: str,
        client: VllmClient,
        expected: Callable[[], set[str]],
        on_loss: Callable[[], None],
        stalled_s: float,
    ) -> None:
        self.url = url.rstrip("/")
        self.ready = False
        self._client = client
        self._expected = expected
        self._on_loss = on_loss
        self._stall = StallWatch(client)
        self._stalled_s = stalled_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vllm-watch", daemon=True)

    def start(self) -> None:
        """Take the server over: what an earlier sampler loaded is unloaded. Raises OSError if it does not answer."""
        try:
            self._clear()
        except Unavailable as error:
            raise OSError(f"no vLLM answers at {self.url}") from error
        self.ready = True
        self._stall.restart()
        self._thread.start()

    def trouble(self) -> str | None:
        """Why nothing can be generated now, or None. A server that hangs is for its operator to end."""
        if not self.ready:
            return "vLLM does not answer"
        if self._stall.stalled_s > self._stalled_s:
            return f"vLLM has not sampled a token for {self._stall.stalled_s:.0f} s"
        return None

    def said(self) -> dict[str, str]:
        """Nothing: its log is its keeper's."""
        return {}

    def final_trouble(self) -> None:
        """Its keeper may start it again at any time."""

    def stop(self) -> None:
        """Leave it running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _clear(self) -> None:
        for model in self._client.models(self.url):
            if str(model["id"]).startswith(_OURS):
                self._client.unload(self.url, model["id"])

    def _watch(self) -> None:
        checked_at = time.monotonic()
        while not self._stop.wait(_POLL_S):
            if time.monotonic() - checked_at > _STALL_EVERY_S:
                self._stall.check(self.url)
                checked_at = time.monotonic()
            expected = self._expected()
            try:
                listed = {str(model["id"]) for model in self._client.models(self.url)}
                lost = not (expected & self._expected()) <= listed
                if lost or not self.ready:
                    self._clear()
            except Unavailable:
                lost = self.ready
                self.ready = False
            else:
                self.ready = True
            if lost:
                log.error("vllm_lost_its_adapters", url=self.url)
                self._on_loss()
