"""Rendering and tokenizing large prompts in a process of its own.

Templates are rendered by Jinja, which holds the interpreter: 200,000 short messages take seven seconds, in which the
engine's thread would wait for the interpreter at every operation. The process is started by the first prompt that is
worth it, and replaced when it dies, or is ended because nobody waits for its answer any more.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import structlog

from sampler.admission.prompt_limits import PromptLimits
from sampler.chat.answers import REFUSED, read_tokens
from wire.errors import InvalidRequest, Unavailable, error_from_code
from wire.picture_rule import PictureRule
from wire.process.connected_child import ConnectedChild
from wire.sampling import RenderRequest, TokenIds, TokenizeRequest

log = structlog.get_logger(__name__)

_ATTEMPTS = 2
_START_S = 300.0
_MOST_S = 60.0
_NOT_PASSED_ON = ("HEADWAY_DATABASE", "HEADWAY_SAMPLER_TOKEN", "AWS_", "PG", "PROMETHEUS_")
"""Of variables that a process which reads strangers' texts has no need of."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request to the process."""

    data: bytes
    is_abandoned: bool = False


class ChatWorker:
    """One of each sampler, for one prompt at a time. Belongs to an event loop, but for `close`."""

    def __init__(
        self,
        base: str,
        limits: PromptLimits,
        end_ids: Sequence[int] = (),
        pictures: PictureRule | None = None,
        most_s: float = _MOST_S,
    ) -> None:
        rule = pictures.to_json() if pictures else None
        self._hello = json.dumps([base, list(end_ids), rule, limits.context_length, limits.longest_token]).encode()
        self._most_s = most_s
        self._thread = ThreadPoolExecutor(1, "chat-worker")
        self._lock = threading.Lock()
        self._child = ConnectedChild(
            "sampler.chat.process", _NOT_PASSED_ON, {"TOKENIZERS_PARALLELISM": "false"}, self._greet
        )
        self._under_way: _Job | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, once there is one."""
        return self._child.pid

    async def ids(self, request: RenderRequest | TokenizeRequest) -> TokenIds:
        """The result of ChatRenderer. Cancelling ends the work. Raises HeadwayError."""
        kind = b"r" if isinstance(request, RenderRequest) else b"t"
        job = _Job(kind + request.__pydantic_serializer__.to_json(request))
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            self._give_up(job)
            raise

    def close(self) -> None:
        """End the process, whatever it does."""
        self._child.close()
        self._thread.shutdown(cancel_futures=True)
        self._child.forget()

    def _give_up(self, job: _Job) -> None:
        """The process cannot be interrupted, so it is ended, but for one that is only starting."""
        with self._lock:
            job.is_abandoned = True
            if self._under_way is job:
                self._child.kill()

    def _ask(self, job: _Job) -> TokenIds:
        for _ in range(_ATTEMPTS):
            if self._child.is_closed:
                raise Unavailable("the sampler is shutting down", retry_after_s=1)
            if job.is_abandoned:
                break
            try:
                answer = self._exchange(job)
            except (EOFError, OSError) as error:
                self._child.forget()
                if not job.is_abandoned:
                    log.warning("chat_worker_lost", reason=str(error) or type(error).__name__, num_bytes=len(job.data))
                continue
            if answer[:1] == REFUSED:
                raise error_from_code(*json.loads(answer[1:]))
            return read_tokens(answer)
        raise InvalidRequest("this prompt could not be rendered: the process that does it ended over it; shorten it")

    def _exchange(self, job: _Job) -> bytes:
        connection = self._child.connected()
        with self._lock:
            self._under_way = job
        try:
            connection.send_bytes(job.data)
            if connection.poll(self._most_s):
                return connection.recv_bytes()
        finally:
            with self._lock:
                self._under_way = None
        self._child.forget()
        raise InvalidRequest(f"rendering and tokenizing this prompt takes longer than {self._most_s:.0f} s; shorten it")

    def _greet(self, connection: Connection) -> None:
        connection.send_bytes(self._hello)
        if not connection.poll(_START_S):
            raise OSError(f"it did not start within {_START_S:.0f} s")
        connection.recv_bytes()
        log.info("chat_worker_started", pid=self.pid)
