"""Printing to streams that are not UTF-8 (ISO-8859 locales, PYTHONIOENCODING, logs of CI): what the encoding lacks is
spelled with what it has, and a character that has no such spelling is a question mark."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "headway-spell"
_SPELLINGS = {"…": "...", "–": "-", "—": "-", "−": "-", "·": "-", "×": "x", "→": "->", "’": "'", "“": '"', "”": '"'}


def print_in_any_encoding() -> None:
    """From now on, no character that is printed raises UnicodeEncodeError. The one place where streams are set up."""
    codecs.register_error(_HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLINGS.get(character, "?") for character in lacking), error.end
