"""Paths of checkpoints as clients of the Tinker API write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.catalog.run_ids import run_id
from server.values.sanitizing import is_storable
from store.tables import ModelRow
from wire.errors import InvalidRequest

Kind: TypeAlias = Literal["training", "sampler", "external"]

SEGMENTS: dict[Kind, str] = {"training": "weights", "sampler": "sampler_weights", "external": "external_weights"}
"""What stands in a path for each kind."""
_KINDS: dict[str, Kind] = {segment: kind for kind, segment in SEGMENTS.items()}

_SCHEME = "tinker://"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MOST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class TinkerPath:
    """One path: a run (its id, the model's id, or its slug), a kind, and a name."""

    run: str
    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> TinkerPath:
        """Raises InvalidRequest for what is no path."""
        parts = text.removeprefix(_SCHEME).split("/")
        if not text.startswith(_SCHEME) or len(parts) != 3 or not parts[0]:
            raise InvalidRequest(
                f"{text[:_MOST_SHOWN]!r} is no path of a checkpoint: that has three parts, as in "
                "tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME"
            )
        return cls.of(parts[0], f"{parts[1]}/{parts[2]}")

    @classmethod
    def of(cls, run: str, checkpoint_id: str) -> TinkerPath:
        """From a run and a checkpoint's id within it, as in `weights/NAME`. Raises InvalidRequest."""
        segment, _, name = checkpoint_id.partition("/")
        if segment not in _KINDS or not is_storable(f"{run}{name}"):
            raise InvalidRequest(
                f"{checkpoint_id[:_MOST_SHOWN]!r} is no checkpoint of a run: it begins with one of "
                f"{', '.join(f'{known}/' for known in _KINDS)}"
            )
        return cls(run, _KINDS[segment], check_name(name))

    @property
    def checkpoint_id(self) -> str:
        """The part that follows the run."""
        return f"{SEGMENTS[self.kind]}/{self.name}"

    def __str__(self) -> str:
        return f"{_SCHEME}{self.run}/{self.checkpoint_id}"


def check_name(name: str) -> str:
    """The name of a checkpoint. Raises InvalidRequest for one that a path cannot hold."""
    if not _NAME.fullmatch(name) or set(name) == {"."}:
        raise InvalidRequest(
            f"{name[:_MOST_SHOWN]!r} is no name for a checkpoint: that is 1 to 200 letters, digits, dots, dashes or "
            "underscores"
        )
    return name


def path_of(model: ModelRow, kind: Kind, name: str) -> str:
    """The path of a name."""
    return str(TinkerPath(run_id(model), kind, name))
