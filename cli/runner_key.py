"""Where a runner's key comes from."""

from __future__ import annotations

import os
from pathlib import Path

from cli.settings import stop_with

VARIABLE = "HEADWAY_RUNNER_KEY"


def runner_key(file: Path | None) -> str:
    """The key in the file, or in the environment, where it does not stay: processes that are started from here do not
    get it. Ends the command if there is none."""
    given = os.environ.pop(VARIABLE, "").strip()
    if file is not None:
        try:
            given = file.read_text().strip()
        except OSError as error:
            stop_with(f"cannot read the runner's key in {file}: {error.strerror}")
    if not given:
        makes_one = "`headway keys create NAME --role runner` makes one"
        stop_with(f"a runner needs a key: give --key-file, or set {VARIABLE}; {makes_one}")
    return given
