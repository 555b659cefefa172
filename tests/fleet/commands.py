"""Commands of the operating system that must succeed, and which of those that a simulated network needs are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = {
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "chroot": "coreutils",
    "cc": "gcc",
}
"""Debian's, by the command."""


class CommandFailed(AssertionError):
    """A command of the operating system had an exit status other than 0."""


def run(*argv: str) -> str:
    """Its output. Raises CommandFailed with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def missing() -> list[str]:
    """What this machine lacks for simulated hosts, in words; empty when it has everything."""
    lacks = [f"{command} (Debian's {package})" for command, package in _PACKAGES.items() if not shutil.which(command)]
    lacks += [] if os.geteuid() == 0 else ["root"]
    lacks += [] if Path("/dev/net/tun").exists() else ["/dev/net/tun"]
    return lacks or _refusals()


def _refusals() -> list[str]:
    """A container may have root and still no right to make a namespace."""
    trials: Sequence[tuple[str, ...]] = (
        ("unshare", "--net", "ip", "link", "add", "type", "bridge"),
        ("unshare", "--net", "iptables", "-A", "INPUT", "-m", "statistic", "--probability", "0.5", "--mode", "random"),
        ("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"),
    )
    found: list[str] = []
    for trial in trials:
        try:
            run(*trial)
        except CommandFailed as error:
            found.append(str(error))
    return found
