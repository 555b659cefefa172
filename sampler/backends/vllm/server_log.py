"""What a vLLM server writes: passed on to our own stderr, and searched for the reason when the server has died."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from typing import IO

_KEPT_LINES = 2000
_STDERR = 2
_PREFIX = re.compile(r"^(?:\([^()]*\)\s*)*(?:[A-Z]+ [\d-]+ [\d:.]+ \[[^\]]*\]\s?)?")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?P<kind>[A-Z]\w*(?:Error|Exception)|Fatal Python error)(?:: (?P<text>.*))?$"
)
_WHAT = re.compile(r"^\s*what\(\):\s*(?P<text>.+)$")
_FACTS = {
    "dtype": re.compile(r"LLM engine .* dtype=torch\.(\w+)"),
    "device": re.compile(r"LLM engine .* device_config=(\w+)"),
    "kernel": re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+)(?: attention)? backend\b"),
    "cache": re.compile(r"(\w+ KV cache size: [\d,]+ tokens)"),
}
_CONSEQUENCES = ("EngineDeadError", "EngineGenerateError", "CancelledError", "BrokenPipeError", "ConnectionResetError")
_CONSEQUENCE_TEXTS = ("Engine core initialization failed", "EngineCore encountered an issue", "Engine process failed")
"""What vLLM's processes say about each other's deaths."""


class ServerLog:
    """Reads one server's output in a thread until it ends."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._thread = threading.Thread(target=self._read, name="vllm-log", daemon=True)
        self._thread.start()

    def reason(self) -> str:
        """Why the server died, in its own words. Waits a moment for the last of them."""
        self._thread.join(2.0)
        return reason_in(list(self._lines))

    def facts(self) -> dict[str, str]:
        """What it has loaded, as far as it wrote it."""
        return facts_in(list(self._lines))

    def _read(self) -> None:
        for line in self._output:
            self._lines.append(line.decode(errors="replace").rstrip())
            with contextlib.suppress(OSError):  # whoever read ours is gone; vLLM must not wait for that
                os.write(_STDERR, line)


def facts_in(lines: list[str]) -> dict[str, str]:
    """`dtype`, `device`, `kernel` (of attention) and `cache` (its size, in vLLM's words)."""
    found = dict[str, str]()
    for line in lines:
        for name, pattern in _FACTS.items():
            if match := pattern.search(line):
                found[name] = match[1]
    return found


def reason_in(lines: list[str]) -> str:
    """The last exception that is not about another process's death; else the last line."""
    said = [_PREFIX.sub("", line).strip() for line in lines]
    reasons = [line for line in said if (_EXCEPTION.match(line) or _WHAT.match(line)) and not _is_consequence(line)]
    anything = [line for line in said if line]
    return (reasons or anything or ["it said nothing"])[-1][:500]


def _is_consequence(line: str) -> bool:
    match = _EXCEPTION.match(line)
    kind, text = (match["kind"], match["text"] or "") if match else ("", "")
    return kind in _CONSEQUENCES or text.startswith(_CONSEQUENCE_TEXTS)
