"""The vLLM process that a sampler keeps: started, watched, started again when it dies, ended with us."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from sampler.backends.vllm.client import VllmClient
from sampler.backends.vllm.command import server_command, server_environment
from sampler.backends.vllm.parsers import Parsers
from sampler.backends.vllm.server_log import ServerLog
from sampler.backends.vllm.settings import VllmSettings
from sampler.backends.vllm.stall import StallWatch

log = structlog.get_logger(__name__)

_POLL_S = 0.1
_HEALTH_EVERY_S = 5.0
_SICK_AFTER = 3  # health checks in a row
_STOP_S = 12.0
_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 30.0)
_WELL_AFTER_S = 60.0
_MOST_DEATHS = 5
"""In a row, none of them after the server had been well for a while."""


class OwnServer:
    """Calls `on_loss` whenever the server, and every adapter in it, is gone; it may be back under another URL. `ready`
    is a server that has sampled a token. One that dies again and again is not started any more: `final_trouble` says
    why. has_vision: the base has a tower, whether or not it is asked about pictures (`with_pictures`)."""

    def __init__(
        self,
        base: Path,
        num_threads: int,
        settings: VllmSettings,
        parsers: Parsers,
        client: VllmClient,
        on_loss: Callable[[], None],
        *,
        has_vision: bool = False,
        with_pictures: bool = False,
    ) -> None:
        self._base = base
        self._has_vision = has_vision
        self._with_pictures = with_pictures
        self._num_threads = num_threads
        self._settings = settings
        self._parsers = parsers
        self._client = client
        self._on_loss = on_loss
        self._process: subprocess.Popen[bytes] | None = None
        self._log: ServerLog | None = None
        self._final: str | None = None
        self._ready_at = 0.0
        self._stall = StallWatch(client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vllm-watch", daemon=True)
        self.url = ""
        self.ready = False

    def start(self) -> None:
        """Return when it serves. Raises ValueError if there is no vLLM, OSError if it does not start."""
        try:
            self._spawn()
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        log.info("vllm_ready", url=self.url)
        self._thread.start()

    def trouble(self) -> str | None:
        """Why nothing can be generated now, or None."""
        if not self.ready:
            return self._final or "vLLM is being started again"
        process = self._process
        return "vLLM has died" if process is None or process.poll() is not None else None

    def said(self) -> dict[str, str]:
        """What it wrote about what it loaded, as `facts_in`."""
        return self._log.facts() if self._log is not None else {}

    def final_trouble(self) -> str | None:
        """Why it is not started again; None while it is."""
        return self._final

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after a while. Blocks."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._end()

    def _spawn(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            server_command(self._base, port, self._settings, self._parsers, with_pictures=self._with_pictures),
            env=server_environment(self._num_threads, has_vision=self._has_vision),
            stdin=subprocess.PIPE,  # its lifeline
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which ends as one
        )
        assert self._process.stdout is not None
        self._log = ServerLog(self._process.stdout)

    def _wait_until_ready(self) -> None:
        """Until it has sampled a token. Raises OSError with the reason when it dies over that, or takes too long."""
        process, deadline = self._process, time.monotonic() + self._settings.start_timeout_s
        assert process is not None
        was_healthy = False
        while not ((is_healthy := self._client.is_healthy(self.url)) and self._client.generates(self.url)):
            if process.poll() is not None or (was_healthy and not is_healthy):
                when = "over its first request" if was_healthy or is_healthy else "while it started"
                raise OSError(f"vLLM died {when}: {self._reason()}")
            was_healthy = was_healthy or is_healthy
            if time.monotonic() > deadline:
                raise OSError(f"vLLM was not ready within {self._settings.start_timeout_s:.0f} s")
            if self._stop.wait(_POLL_S):
                return
        self._ready_at = time.monotonic()
        self._stall.restart()
        self.ready = True

    def _reason(self) -> str:
        """Of a server that died, or whose engine did; what is left of it is ended first, so that it has said all."""
        self._end()
        return self._log.reason() if self._log is not None else "it said nothing"

    def _watch(self) -> None:
        deaths, reason = 0, ""
        while not self._stop.is_set():
            self._wait_for_death()
            if self._stop.is_set():
                return
            deaths = 1 if self.ready and time.monotonic() - self._ready_at > _WELL_AFTER_S else deaths + 1
            if self.ready:
                reason = self._reason()
                self._on_loss()
            if deaths >= _MOST_DEATHS:
                self._give_up(deaths, reason)
                return
            pause_s = _BACK_OFF_S[min(deaths, len(_BACK_OFF_S)) - 1]
            log.error("vllm_died", reason=reason, again_in_s=pause_s)
            self._stop.wait(pause_s)
            reason = self._start_again()

    def _give_up(self, deaths: int, reason: str) -> None:
        self._final = (
            f"vLLM died {deaths} times in a row and is not started again, the last time of: {reason} (change its "
            "settings or the base, then start the sampler again)"
        )
        log.error("vllm_given_up", reason=reason, deaths=deaths)

    def _wait_for_death(self) -> None:
        """Until the process has ended, or has not answered for a while, or no token has come out for long."""
        num_sick, checked_at = 0, time.monotonic()
        while self.ready and self._process is not None and self._process.poll() is None and num_sick < _SICK_AFTER:
            if self._stop.wait(_POLL_S):
                return
            if time.monotonic() - checked_at > _HEALTH_EVERY_S:
                num_sick = 0 if self._client.is_healthy(self.url) else num_sick + 1
                self._stall.check(self.url)
                checked_at = time.monotonic()
            if self._stall.stalled_s > self._settings.stalled_s:
                log.error("vllm_stands_still", for_s=round(self._stall.stalled_s))
                return

    def _start_again(self) -> str:
        """Why it did not work; empty if it did."""
        if self._stop.is_set():
            return ""
        try:
            self._spawn()
            self._wait_until_ready()
        except OSError as error:
            self._end()
            log.error("vllm_not_started", error=str(error))
            return str(error)
        log.info("vllm_is_back", url=self.url)
        return ""

    def _end(self) -> None:
        process, self._process = self._process, None
        self.ready = False
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):  # its workers, too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
