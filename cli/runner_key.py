"""Where a runner's key comes from."""

from __future__ import annotations

import os
from pathlib import Path

from cli.ending import sentence_of
from cli.settings import stop_with

VARIABLE = "HEADWAY_RUNNER_KEY"


def runner_key(file: Path | None) -> str:
    """The key in the environment, where it does not stay: processes that are started from here do not get it. Ends the
    command if there is none, neither there nor in the file, which is read in its place."""
    from wire.process.tokens import Tokens

    given = os.environ.pop(VARIABLE, "").strip()
    try:
        keys = Tokens(given, file)
    except (OSError, ValueError) as error:
        stop_with(f"cannot read the runner's key: {sentence_of(error)}")
    if not keys:
        makes_one = "`headway keys create NAME --role runner` makes one"
        stop_with(f"a runner needs a key: give --key-file, or set {VARIABLE}; {makes_one}")
    return given
