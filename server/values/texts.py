"""Texts that people write for people: names and reasons."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field


def _printable(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must be printable characters on one line")
    return text


Tag: TypeAlias = Annotated[str, Field(min_length=1, max_length=50), AfterValidator(_printable)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Sentence: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
