"""`headway logs`: what the processes of `headway up` wrote, by the files in the data folder."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with

_POLL_S = 0.2


def logs(
    plane: Annotated[
        str, typer.Argument(help="server, trainer, sampler or runner, or one of them as trainer-BASE; default: all")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show what is written, until Ctrl-C")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines at the end of each log")] = 20,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the ends of the logs that `headway up` keeps in the data folder, the one written last at the bottom."""
    files = _files(data_dir / "logs", plane)
    printer = _Printer(several=len(files) > 1)
    try:
        places = {path: printer.show_end(path, lines) for path in files}
        while follow:
            time.sleep(_POLL_S)
            for path in _present(data_dir / "logs", plane):  # a plane may be started meanwhile
                places[path] = printer.show_rest(path, places.get(path, 0))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        stop_with(f"{error.filename}: {error.strerror}")


def _files(folder: Path, plane: str) -> list[Path]:
    every = _present(folder, "")
    if not every:
        stop_with(
            f"there are no logs in {folder}: `headway up` writes them there (give its --data-dir); a process that was "
            "started by itself, as by Docker or systemd, writes to its standard error"
        )
    found = _present(folder, plane)
    if not found:
        stop_with(f"there is no log of {plane!r} in {folder}; there are: {', '.join(sorted(p.stem for p in every))}")
    return found


def _present(folder: Path, plane: str) -> list[Path]:
    """Logs of this plane, the one that was written last at the end."""
    paths = [path for path in folder.glob("*.log") if not plane or _is_of(path.stem, plane)]
    return sorted(paths, key=lambda path: (path.stat().st_mtime, path.name))


def _is_of(name: str, plane: str) -> bool:
    return name == plane or name.startswith(f"{plane}-")


class _Printer:
    """Prints lines of logs, with a heading where the next lines are of another one."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._last: Path | None = None

    def show_end(self, path: Path, num_lines: int) -> int:
        """Its last lines; where it ends."""
        with path.open("rb") as file:
            last = deque(file, maxlen=num_lines)
            self._print(path, b"".join(last))
            return file.tell()

    def show_rest(self, path: Path, place: int) -> int:
        """Whole lines that were written since; where they end. A log that has become shorter is read anew."""
        with path.open("rb") as file:
            file.seek(place if path.stat().st_size >= place else 0)
            begins, rest = file.tell(), file.read()
        whole = rest[: rest.rfind(b"\n") + 1]
        self._print(path, whole)
        return begins + len(whole)

    def _print(self, path: Path, written: bytes) -> None:
        if not written:
            return
        if self._last != path and (self._several or self._last is not None):
            typer.echo(f"{'' if self._last is None else chr(10)}==> {path.name} <==")
        self._last = path
        typer.echo(written.decode(errors="replace"), nl=not written.endswith(b"\n"))
