"""A process on a simulated host: in its network, under a root file system of its own.

The root is an overlay over this machine's: what is written there goes to a tmpfs that ends with the process, and is
refused when the root is read-only. Folders of the host are bind-mounted into it at the paths that the process knows.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OF_THE_KERNEL = ("/proc", "/sys", "/dev")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process sees. mounts: files and folders of the host, by the path at which the process finds them;
    read_only: every other path refuses to be written."""

    namespace: str
    mounts: Mapping[str, Path]
    uid: int
    cwd: str
    read_only: bool


class Process:
    """Runs from its construction on. Its pid is the command's own, so a signal reaches the command."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], around: Surroundings, log: Path, preload: Mapping[str, str]
    ) -> None:
        """preload: variables of the command that those who prepare its surroundings must not have."""
        self.argv, self.env, self.log = tuple(argv), {"PATH": _PATH, **env}, log
        self._around, self._preload = around, preload
        self._place = Path(tempfile.mkdtemp(prefix="headway-host-"))
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                self._command(), env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def again(self) -> Process:
        """Another that is started with the same words."""
        return Process(self.argv, self.env, self._around, self.log, self._preload)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        return self._popen.wait(timeout_s)

    def signal(self, signum: signal.Signals) -> None:
        self._popen.send_signal(signum)

    def kill(self) -> None:
        """With everything that it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self.forget()

    def forget(self) -> None:
        """Its root file system went with its namespace; the folder where that was mounted goes here."""
        with contextlib.suppress(OSError):
            self._place.rmdir()

    def execute(self, argv: Sequence[str], timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """A command beside it, in the same surroundings, as an exec probe is. Raises subprocess.TimeoutExpired."""
        enter = ("nsenter", f"--target={self.pid}", "--mount", "--net", "--root", "--wd")
        return subprocess.run(
            [*enter, *_become(self._around.uid), *argv],
            env={**self.env, **self._preload},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _command(self) -> list[str]:
        inside = ["env", f"--chdir={self._around.cwd}", *(f"{k}={v}" for k, v in self._preload.items()), *self.argv]
        script = _prepare(self._place, self._around) + f'exec chroot {self._place}/root "$@"\n'
        enter = ["nsenter", f"--net=/run/netns/{self._around.namespace}", "unshare", "--mount", "--propagation=private"]
        return [*enter, "sh", "-euc", script, "sh", *_become(self._around.uid), *inside]


def _become(uid: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups") if uid else ()


def _prepare(place: Path, around: Surroundings) -> str:
    """Shell that makes the root file system at place/root."""
    root = place / "root"
    lines = [
        f"mount -t tmpfs -o mode=755 none {place}",
        f"mkdir {place}/upper {place}/work {root}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={place}/upper,workdir={place}/work {root}",
        *(f"mount --rbind {path} {root}{path}" for path in (*_OF_THE_KERNEL, *_elsewhere())),
        *(line for target in sorted(around.mounts) for line in _bind(root, target, around.mounts[target])),
    ]
    return "\n".join([*lines, *([f"mount -o remount,bind,ro {root}"] if around.read_only else []), ""])


def _bind(root: Path, target: str, source: Path) -> list[str]:
    there, here = shlex.quote(f"{root}{target}"), shlex.quote(str(source.resolve(strict=True)))
    make = f"mkdir -p {there}" if source.is_dir() else f'mkdir -p "$(dirname {there})"; : >> {there}'
    return [make, f"mount --bind {here} {there}"]


def _elsewhere() -> list[str]:
    """Where this project and its Python lie, if not on the root's own file system, which is all that an overlay
    shows."""
    device = os.stat("/").st_dev
    places = {REPOSITORY, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return sorted(str(place) for place in places if place.stat().st_dev != device)
