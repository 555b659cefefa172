"""A JSON object as it comes, a character at a time: where it ends, and its members as they were written."""

from __future__ import annotations

import json
import re
from json.decoder import JSONDecodeError

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_SCALAR = re.compile(r"[-+.0-9A-Za-z]")


class NotThisObject(Exception):
    """What comes is no JSON object."""


class JsonObject:
    """Takes characters up to the brace that closes the object. Refuses at the first one that no object could have, so
    that a text with many braces is not read again and again."""

    def __init__(self) -> None:
        self._characters: list[str] = []
        self._closing: list[str] = []
        self._wants = "object"
        self._in_string = self._escaped = self._is_key = False

    @property
    def text(self) -> str:
        return "".join(self._characters)

    def checked(self) -> str:
        """The text. Raises NotThisObject where it is none after all."""
        read_members(self.text)
        return self.text

    def take(self, character: str) -> bool:
        """Whether the object is complete with this. Raises NotThisObject."""
        if len(character) != 1:
            raise NotThisObject
        self._characters.append(character)
        if self._in_string:
            self._take_in_string(character)
        elif character not in " \t\r\n":
            self._take_token(character)
        return not self._closing and not self._in_string

    def _take_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            self._wants = "colon" if self._is_key else "comma"
        elif character < " ":
            raise NotThisObject

    def _take_token(self, character: str) -> None:
        wants = self._wants
        if character in "}]" and self._closing[-1:] == [character] and wants in ("comma", "first", "scalar"):
            self._closing.pop()
            self._wants = "comma"
        elif wants == "object" or (character in "{[" and (wants == "value" or self._may_begin_item())):
            self._open(character)
        elif character == '"' and wants in ("value", "first", "key"):
            self._in_string = True
            self._is_key = wants == "key" or (wants == "first" and self._closing[-1] == "}")
        elif character == ":" and wants == "colon":
            self._wants = "value"
        elif character == "," and wants in ("comma", "scalar"):
            self._wants = "key" if self._closing[-1] == "}" else "value"
        elif _SCALAR.match(character) and (wants in ("value", "scalar") or self._may_begin_item()):
            self._wants = "scalar"
        else:
            raise NotThisObject

    def _may_begin_item(self) -> bool:
        return self._wants == "first" and self._closing[-1] == "]"

    def _open(self, character: str) -> None:
        if self._wants == "object" and character != "{":
            raise NotThisObject
        self._closing.append("}" if character == "{" else "]")
        self._wants = "first"


def read_members(text: str) -> tuple[dict[str, object], dict[str, str]]:
    """A JSON object's values and, verbatim, their text. Raises NotThisObject."""
    try:
        return _members(text)
    except (ValueError, RecursionError) as error:
        raise NotThisObject from error


def _members(text: str) -> tuple[dict[str, object], dict[str, str]]:
    values: dict[str, object] = {}
    raw: dict[str, str] = {}
    at = _skip_space(text, _expect(text, 0, "{"))
    while text[at : at + 1] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip_space(text, _expect(text, _skip_space(text, at), ":"))
        values[key], at = _DECODER.raw_decode(text, start)
        raw[key] = text[start:at]
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
    if _expect(text, at, "}") != len(text):
        raise JSONDecodeError("extra text behind the object", text, at)
    return values, raw


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise JSONDecodeError(f"expected {character}", text, at)
    return at + 1


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
