"""Tokens that planes show one another: a plain one, or the lines of a file that may be replaced.

Each side of a call reads a file of its own, and none is replaced at the same moment as the others. So every line is
accepted, and the first is sent: whoever rotates a token adds the new line everywhere, then makes it the first
everywhere, then drops the old one, and no call is refused.
"""

from __future__ import annotations

import hmac
import re
from functools import partial
from pathlib import Path

from wire.process.replaceable_files import Replaceable

_TOKEN = re.compile(r"[!-~]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MOST_BYTES = 65536


class Tokens:
    """Those in the file where there is one, else the plain one, else none. Space around one, such as the end of line in
    a Secret that was made of a file, is no part of it.

    Raises OSError for a file that cannot be read, ValueError for one without a token or with a line that is none, and
    for a plain one that fits into no header.
    """

    def __init__(self, plain: str | None = None, file: Path | None = None) -> None:
        self._plain = _plain(plain) if file is None else ()
        self._lines = Replaceable([file], partial(_lines, file)) if file is not None else None

    def all(self) -> tuple[str, ...]:
        """At present."""
        return self._lines.current() if self._lines is not None else self._plain

    @property
    def sent(self) -> str:
        """The one to show to others. Raises ValueError where there is none."""
        tokens = self.all()
        if not tokens:
            raise ValueError("there is no token to send")
        return tokens[0]

    def accept(self, authorization: str | bytes | None) -> bool:
        """Whether this Authorization header carries one of them. All are compared, each in constant time."""
        given = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization or b""
        found = [hmac.compare_digest(given, f"Bearer {token}".encode()) for token in self.all()]
        return any(found)

    def __bool__(self) -> bool:
        return bool(self.all())


def _plain(given: str | None) -> tuple[str, ...]:
    token = (given or "").strip()
    if _CONTROL.search(token):
        raise ValueError("a token is one line; one in the environment has several, or other control characters")
    return (token,) if token else ()


def _lines(file: Path) -> tuple[str, ...]:
    """No message repeats what a file has: it is secret."""
    with file.open("rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{file} is too large for a file of tokens: write one a line")
    try:
        lines = [line.strip() for line in content.decode("ascii").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{file}: a token has ASCII characters alone, and no byte order mark before it") from None
    for number, line in enumerate(lines, 1):
        if line and not _TOKEN.fullmatch(line):
            raise ValueError(f"{file}, line {number}: write one token a line, without spaces")
    tokens = tuple(filter(None, lines))
    if not tokens:
        raise ValueError(f"{file} has no token: write one a line, the one to send first")
    return tokens
