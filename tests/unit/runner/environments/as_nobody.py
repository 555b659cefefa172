"""Executes a command as the user nobody, who may read this Python wherever it lies:
`python as_nobody.py COMMAND …`. Needs root."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4]))

from runner.environments.isolation import kernel  # after the path

NOBODY = 65534


def main() -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    if Path(sys.base_prefix).is_relative_to("/root"):
        _open_root()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])


def _open_root() -> None:
    """A /root that others may enter, and nothing in it but this Python."""
    aside = tempfile.mkdtemp()
    kernel.mount(sys.base_prefix, aside, None, kernel.MS_BIND)
    kernel.mount("tmpfs", "/root", "tmpfs", 0, "mode=755")
    os.makedirs(sys.base_prefix)
    kernel.mount(aside, sys.base_prefix, None, kernel.MS_BIND)
    kernel.unmount(aside)
    os.rmdir(aside)


if __name__ == "__main__":
    main()
