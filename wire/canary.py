"""A few logprobs that the trainer computed under the weights it saved, for samplers to hold their own against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from wire.errors import CorruptCheckpoint

CANARY_FILE = "canary.json"


@dataclass(frozen=True, slots=True)
class PictureCanary:
    """With `wire.canary_picture` in the place of the `num_tokens` placeholders that begin at `start`: after
    `token_ids[: start + num_tokens + i]`, the most likely token is `greedy_ids[i]`, at `logprobs[i]` nats."""

    token_ids: list[int]
    start: int
    num_tokens: int
    greedy_ids: list[int]
    logprobs: list[float]

    @property
    def stop(self) -> int:
        """One past the last placeholder."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class Canary:
    """After `token_ids[: i + 1]`, the most likely token is `greedy_ids[i]`, at `logprobs[i]` nats (temperature 1).

    dtype: the precision that base and adapter are served in, which decides how close another engine can come.
    picture: None for bases that take text alone, or have no room for one.
    """

    token_ids: list[int]
    greedy_ids: list[int]
    logprobs: list[float]
    dtype: str
    picture: PictureCanary | None = None

    def write(self, folder: Path) -> None:
        """Beside the adapter's own files, which are served without it too."""
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        (folder / CANARY_FILE).write_text(json.dumps(facts) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Canary | None:
        """The folder's canary, if it has one; what only a later version knows of it is left out. Raises
        CorruptCheckpoint."""
        try:
            return cls._of(json.loads((folder / CANARY_FILE).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise CorruptCheckpoint(f"{CANARY_FILE} cannot be read: {error}") from error

    @classmethod
    def _of(cls, facts: Mapping[str, Any]) -> Self:
        known = {each.name: facts[each.name] for each in fields(cls) if each.name in facts}
        if (picture := known.get("picture")) is not None:
            known["picture"] = PictureCanary(**{each.name: picture[each.name] for each in fields(PictureCanary)})
        return cls(**known)
