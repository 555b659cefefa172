"""Carries out pages of documentation as they are printed: `python -m tests.e2e.printed_blocks README.md`.

A comment before a block says what is done with it. `<!-- run -->`: in one shell for the whole page, which ends at the
first command that fails. `<!-- run in the background, until "TEXT" -->`: beside it, until it prints that text, up to
the end of the page. `<!-- file: NAME -->`: it is written to this file, in the folder where the shell is then.
`<!-- output -->`: it is what was printed before. `<!-- not run: REASON -->`.

Commands run in a new folder that has the `.venv`, the built bases and the examples of this repository. As few words as
possible are replaced (`REPLACED`): what a hub would bring by the tiny base, and ports by free ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import heed_interrupts

ROOT = Path(__file__).parents[2]
TINY = ".headway-cache/tiny-arith"
REPLACED = {
    "README.md": {
        "--base Qwen/Qwen3-0.6B": f"--base qwen3-0.6b={TINY} --port 0",
        "range(40)": "range(2)",
    },
    "docs/tutorial.md": {"make up": f"headway up --base tiny-arith={TINY} --port 0"},
}
BLOCK = re.compile(
    r"(?:<!-- (?P<what>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL
)
BACKGROUND = re.compile(r'run in the background, until "(.*)"')
_END = "=== the end of the block, with"


class BlockFailed(AssertionError):
    """A command that ended with another status than 0, or did not print what it should."""


@dataclass(frozen=True, slots=True)
class Block:
    what: str | None
    language: str
    body: str


def blocks(page: str) -> list[Block]:
    """Of a page, by its path in the repository; nothing is replaced."""
    return [
        Block(match["what"], match["language"], match["body"]) for match in BLOCK.finditer((ROOT / page).read_text())
    ]


def carry_out(page: str) -> str:
    """Everything that was printed. Raises BlockFailed."""
    with tempfile.TemporaryDirectory(prefix="headway-page-") as folder, ExitStack() as processes:
        place = Path(folder)
        place.chmod(0o755)
        for name in (".venv", ".headway-cache", "examples"):
            (place / name).symlink_to(ROOT / name)
        shell = processes.enter_context(_shell(place))
        printed = ""
        for block in _replaced(page):
            if block.what == "run":
                printed += shell.run(block.body)
            elif block.what and block.what.startswith("file: "):
                (shell.folder() / block.what.removeprefix("file: ")).write_text(block.body)
            elif block.what and (background := BACKGROUND.fullmatch(block.what)):
                processes.enter_context(_beside(block.body, background[1], place))
        return printed


def _replaced(page: str) -> Iterator[Block]:
    replaced = set[str]()
    for block in blocks(page):
        body = block.body
        for old, new in REPLACED[page].items():
            if block.what and not block.what.startswith("not run") and old in body:
                replaced.add(old)
                body = body.replace(old, new)
        yield Block(block.what, block.language, body)
    assert replaced == set(REPLACED[page]), f"{page} has no {set(REPLACED[page]) - replaced} any more"


class _Shell:
    """A bash that stays, and ends at the first failure."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.run("set -e")

    def run(self, body: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{body}\nprintf '\\n{_END} %s\\n' $?\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.startswith(_END):
                return printed.removesuffix("\n")
            sys.stdout.write(line)
            sys.stdout.flush()
            printed += line
        raise BlockFailed(f"{body}\nended with {self._process.wait()}:\n{printed}")

    def folder(self) -> Path:
        return Path(self.run("pwd").strip())


@contextmanager
def _shell(place: Path) -> Iterator[_Shell]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = ["bash", "--noprofile", "--norc"]
    with subprocess.Popen(command, cwd=place, env=_environment(), text=True, **pipes) as process:
        try:
            yield _Shell(process)
        finally:
            process.kill()


@contextmanager
def _beside(body: str, until: str, place: Path) -> Iterator[None]:
    log = place / "background.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {body}"],
            cwd=place,
            env=_environment(),
            stdout=out,
            stderr=out,
            preexec_fn=heed_interrupts,
        )
    try:
        deadline = time.monotonic() + 300
        while until not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BlockFailed(f"{body}\ndid not print {until!r}:\n{log.read_text()}")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


def _environment() -> dict[str, str]:
    """What a terminal has: nothing that points at another service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HUD_", "HEADWAY_", "TINKER_"))}
    path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "HUD_CLI_ANALYTICS_ENABLED": "0"}


def main() -> None:
    for page in sys.argv[1:]:
        started = time.monotonic()
        carry_out(page)
        print(f"{page}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
