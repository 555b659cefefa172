"""Every exception of ours is answered as a refusal, or is caught where this table says: none becomes a bare 500."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.exceptions import HTTPException

import server
import store
import wire
from server.http.errors import REFUSED
from wire.errors import HeadwayError

CAUGHT = {
    "ConnectionFailed": "server/sampling/sampler_client.py",
    "WebhookFailed": "server/guard/acting.py",
    "Refused": "server/guard/webhooks.py",
    "Undone": "server/guard/acting.py",
    "_HeadMoved": "server/guard/rolling_back.py",
    "EmbeddedPostgresFailed": "cli/settings.py",
    "NoSuchObject": "store/checkpoint_stores/s3.py",
    "DamagedObject": "store/checkpoint_stores/s3.py",
    "_Odd": "store/rollouts/spans.py",
    "_ParentGone": "store/rollouts/recording.py",
    "_OnRecord": "store/rollouts/importing.py",
    "GaveUp": "cli/ending.py",
    "MovedAlready": "server/catalog/heads.py",
    "IncompatibleSchema": "cli/doctor/database.py",
    "LeaseLost": "server/runs/loop/controller.py",
    "RunFailed": "server/runs/loop/controller.py",
    "BatchDropped": "server/runs/loop/controller.py",
    "ClientGone": "server/environments/tunnels.py",
    "NoSuchValue": "server/fine_tuning/graded_tasks.py",
    "FormulaError": "runner/environments/builtin/grading.py",
}
"""Where what is no refusal is caught. (Commands print what they cannot do, and have no callers on the wire.)"""
IN_VALIDATORS = {"TemplateError"}
"""Raised where a body is validated, which refuses it for any ValueError."""
NOT_ANSWERED = ("cli", "server.mirror", "store.backup")


def exceptions() -> Iterator[type[Exception]]:
    for package in (wire, store, server):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.startswith(NOT_ANSWERED) or found.name.endswith("__main__"):
                continue
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == found.name:
                    yield value


def unmapped(kinds: Iterable[type[Exception]]) -> set[str]:
    """Those that would be answered with a 500 without a sentence."""
    return {
        kind.__name__
        for kind in kinds
        if not issubclass(kind, (HTTPException, *REFUSED))
        and not (kind.__name__ in IN_VALIDATORS and issubclass(kind, ValueError))
        and not CAUGHT.keys() & {base.__name__ for base in kind.__mro__}
    }


def without_a_code(kinds: Iterable[type[Exception]]) -> set[str]:
    """Refusals that read as a fault of ours, since nobody gave them a code of their own kind."""
    refusals = [kind for kind in kinds if issubclass(kind, HeadwayError) and kind is not HeadwayError]
    return {kind.__name__ for kind in refusals if kind.code == "internal" or not 400 <= kind.status < 600}


def test_every_exception_of_ours_is_mapped_or_caught():
    found = set(exceptions())
    assert len(found) > 20
    assert unmapped(found) == set()
    assert without_a_code(found) == set()


def test_what_the_table_says_is_caught_is_caught_there():
    for name, path in CAUGHT.items():
        assert re.search(rf"(except |isinstance\()[^:]*\b{name}\b", Path(path).read_text()), (
            f"{path} does not catch {name}"
        )


def test_an_exception_without_mapping_is_noticed():
    class Planted(Exception):
        """Of somebody who did not know."""

    class Nameless(HeadwayError):
        """A refusal without a code."""

    assert unmapped([Planted, Nameless]) == {"Planted"}
    assert without_a_code([Planted, Nameless]) == {"Nameless"}
