"""A program that stops children, as `headway up` does, for `test_interruption`: interrupted.py FOLDER.

Its children end by no SIGTERM. Says `started` when they run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from cli.box.children import Child, Children
from cli.box.interruption import Interruption, Terminated

STUBBORN = "trap '' TERM; echo $$ > {file}; while :; do sleep 0.1; done"


def main(folder: Path) -> int:
    interruption = Interruption()
    interruption.heed()
    try:
        with Children(folder) as children, interruption.stopping_after(children.kill):
            files = [folder / "first.pid", folder / "second.pid"]
            for file in files:
                command = ["sh", "-c", STUBBORN.format(file=file)]
                children.start(Child(file.stem, command, {}, stop_s=600.0, stops_first=file is files[0]))
            while not all(file.exists() and file.read_text().strip() for file in files):
                time.sleep(0.02)
            typer.echo("started")
            time.sleep(600)
    except KeyboardInterrupt:
        return 0
    except Terminated:
        return 143
    finally:
        typer.echo("stopped")
    return 1


sys.exit(main(Path(sys.argv[1])))
