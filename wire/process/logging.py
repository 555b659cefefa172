"""How every process logs: one structured line an event, for people on a terminal, as JSON elsewhere.

What is bound to a request or an operation (`structlog.contextvars`) stands on each line that is written on its behalf.

A line that cannot be written (a full disk, a pipe that nobody reads, a value that does not render) is lost, and counted
in the next one that can be: no work fails for its log, and none waits for it longer than a second.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import threading
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from wire.process.tracing import current_ids

# API keys, whatever a header calls a bearer, and the user:password of a URL. Nothing of ours logs them; what a library
# or a traceback quotes might.
_SECRET = re.compile(r"(?:\btml-)?\bhw_[A-Za-z0-9_-]{32,}|(?i:\bbearer )[^\s\"',]+|(?<=://)[^/\s:@\"]*:[^/\s@\"]+(?=@)")

_PATIENCE_MS = 1000

_process: dict[str, Any] = {}


def configure_logging(plane: str, log_format: str | None = None) -> None:
    """Set structlog and the standard library's logging up for one process. `log_format`: json or text; None for text
    on a terminal, and JSON elsewhere."""
    stream = _stream()
    writer = cast("TextIO", _LineWriter(stream)) if _is_file(stream) else stream
    render: list[structlog.typing.Processor] = [_renderer(log_format, stream), without_secrets]
    shared: list[structlog.typing.Processor] = [
        _add_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        _add_trace_ids,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=_Logger,
        logger_factory=structlog.WriteLoggerFactory(writer),
        cache_logger_on_first_use=True,
    )
    name_process(plane=plane)
    logging.raiseExceptions = False  # a handler that fails would write about it where it has just failed
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def name_process(**facts: Any) -> None:
    """What every line of this process says of it from now on, whichever thread writes it."""
    _process.update(facts)


def without_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """The rendered line with keys, bearer tokens and passwords of URLs replaced."""
    # Looking for what every secret has is a twentieth of the search (bench/request_cost.py), on every request's line.
    if "hw_" in line or "://" in line or "bearer " in line.lower():
        return _SECRET.sub("[secret]", line)
    return line


_Levels = cast("type[structlog.BoundLoggerBase]", structlog.make_filtering_bound_logger(logging.NOTSET))


class _Logger(_Levels):
    """Raises nothing."""

    num_lost = 0

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **event_kw: Any) -> None:
        try:
            if lost := _Logger.num_lost:
                super()._proxy_to_logger("warning", "log_lines_lost", lines=lost)
                _Logger.num_lost -= lost
            super()._proxy_to_logger(method_name, event, **event_kw)
        except Exception:  # wherever it came from: the caller has other things to do
            _Logger.num_lost += 1


class _LineWriter:
    """Writes whole lines, and raises TimeoutError rather than wait for long: a pipe whose reader hangs would
    stop the event loop.

    Of a pipe that says so, this much fits in without waiting (POSIX). One reader that stands still is waited for once.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._patience_ms = _PATIENCE_MS
        self._is_torn = False

    def write(self, text: str) -> None:
        """One or more whole lines."""
        descriptor = self._stream.fileno()
        data = text.encode(self._stream.encoding, self._stream.errors or "strict")
        with self._lock:
            rest = b"\n" + data if self._is_torn else data
            while rest:
                self._await_room(descriptor)
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
                self._is_torn = bool(rest)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _await_room(self, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if not poll.poll(self._patience_ms):
            self._patience_ms = 0
            raise TimeoutError("nobody reads what is logged")
        self._patience_ms = _PATIENCE_MS


def _stream() -> TextIO:
    """Standard error, or nowhere in a process that was started without one."""
    stream: TextIO | None = sys.stderr
    return stream if stream is not None else Path(os.devnull).open("w")


def _is_file(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):  # a notebook's, say
        return False
    return True


def _renderer(log_format: str | None, stream: TextIO) -> structlog.typing.Processor:
    is_terminal = stream.isatty()
    if log_format == "text" or (log_format is None and is_terminal):
        return structlog.dev.ConsoleRenderer(colors=is_terminal)
    return structlog.processors.JSONRenderer()


def _add_process(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**event, **_process}


def _add_trace_ids(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.update(current_ids())
    return event
