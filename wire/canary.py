"""A few logprobs that the trainer computed under the weights it saved, for samplers to hold their own against."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from wire.errors import CorruptCheckpoint

CANARY_FILE = "canary.json"


@dataclass(frozen=True, slots=True)
class Canary:
    """After `token_ids[: i + 1]`, the most likely token is `greedy_ids[i]`, at `logprobs[i]` nats (temperature 1).

    dtype: the precision that base and adapter are served in, which decides how close another engine can come.
    """

    token_ids: list[int]
    greedy_ids: list[int]
    logprobs: list[float]
    dtype: str

    def write(self, folder: Path) -> None:
        """Beside the adapter's own files, which are served without it too."""
        (folder / CANARY_FILE).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Canary | None:
        """The folder's canary, if it has one. Raises CorruptCheckpoint."""
        try:
            return cls(**json.loads((folder / CANARY_FILE).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise CorruptCheckpoint(f"{CANARY_FILE} cannot be read: {error}") from error
