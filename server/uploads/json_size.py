"""How much memory a JSON text takes once it is parsed, bounded before it is: an empty object of two bytes becomes one
of 64 and more. Imported by the process that reads uploads, which should start soon."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wire.errors import TooLarge

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True)
class JsonBounds:
    """The most lists and objects, and texts and names, that a body may hold."""

    containers: int
    texts: int

    def check(self, content: bytes) -> None:
        """Raises TooLarge. Counts what stands outside texts where a count of everything would be too much."""
        if content.count(b'"') > 2 * self.texts:
            raise TooLarge(f"the body holds more than {self.texts} texts; send it in smaller parts")
        if _num_brackets(content) > self.containers and _num_brackets(_STRING.sub(b"", content)) > self.containers:
            raise TooLarge(f"the body holds more than {self.containers} lists and objects; send it in smaller parts")


def _num_brackets(content: bytes) -> int:
    return content.count(b"[") + content.count(b"{")


UPLOADS = JsonBounds(containers=2_000_000, texts=8_000_000)
"""Of whatever is read in the process for uploads. 64 MiB of telemetry with logprobs hold some 1.7 million objects."""
