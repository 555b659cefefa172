"""Secrets stand in Secret objects that the chart refers to: in no variable, argument, annotation or other field that it
writes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, cast

from tests.chart.pods import Pod
from tests.chart.rendering import Document
from tests.chart.validation import title

NAMES = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY|RUNNER_KEY|PRIVATE|DATABASE_URL")
OF_FILES = re.compile(r"_(FILE|DIR|CERT|CA|KEY)$")
VALUES = {
    "a password in a URL": re.compile(r"[a-z][a-z0-9+]*://[^/\s:@]*:[^/\s@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a key of Amazon's": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a token": re.compile(r"(?i)\b(bearer\s+[a-z0-9._~+/=-]{8,}|(hf|ghp|gho|sk|hw|headway)[_-][a-z0-9]{16,})"),
}
RANDOM = re.compile(r"[A-Za-z0-9+/_-]{24,}")


def plain_secrets(document: Document) -> Iterator[str]:
    """Secrets that a document would carry, outside of its pods."""
    if document["kind"] == "Secret":
        yield f"{title(document)}: the chart refers to Secrets, it makes none"
    for key, text in _texts(document):
        yield from (f"{title(document)}: {key} looks like {what}" for what in looks_like(text))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, with the key that it stands under; containers are looked at for themselves."""
    if isinstance(value, dict):
        for inner, item in cast("dict[str, Any]", value).items():
            if inner not in ("containers", "initContainers"):
                yield from _texts(item, inner)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def plain_secrets_of(pod: Pod) -> Iterator[str]:
    """Variables and arguments of a pod that are secrets themselves, by their name or by what they look like."""
    for container in pod.all_containers:
        for variable in container.get("env") or []:
            yield from (f"{pod.title(container)}: {line}" for line in _in_variable(variable))
        for word in [*(container.get("command") or []), *(container.get("args") or [])]:
            yield from (f"{pod.title(container)}: an argument looks like {what}" for what in looks_like(word))


def _in_variable(variable: dict[str, Any]) -> Iterator[str]:
    name, value = variable["name"], variable.get("value")
    if not value:
        return
    is_path = str(value).startswith("/") and OF_FILES.search(name)
    if NAMES.search(name) and not is_path:
        yield f"{name} has to come out of a Secret"
    else:
        yield from (f"{name} looks like {what}" for what in looks_like(value))


def looks_like(text: str) -> Iterator[str]:
    """What kinds of secret a text seems to hold."""
    yield from (what for what, pattern in VALUES.items() if pattern.search(text))
    if any(_is_random(found) for found in RANDOM.findall(text)):
        yield "something random"


def _is_random(word: str) -> bool:
    """Long, of digits and letters that change again and again, as neither words nor paths do."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in word if c.isalnum()]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    return "d" in kinds and changes > len(word) / 4
