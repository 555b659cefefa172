"""The environment that points the unmodified SDK at this box, and the file that keeps it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

LOCAL_HOSTS = "127.0.0.1,localhost"
_PLANES = ("API", "RL", "GATEWAY", "TELEMETRY", "RUNTIME", "WEB")


def sdk_exports(origin: str, key: str) -> dict[str, str]:
    """One origin serves all of the SDK's planes."""
    return {**{f"HUD_{plane}_URL": origin for plane in _PLANES}, "HUD_API_KEY": key}


def write_env(path: Path, exports: Mapping[str, str]) -> None:
    """For `source`. Readable by the owner alone, since it holds a key. A proxy must not catch calls to this machine."""
    path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    lines = [f"export {name}={value}\n" for name, value in exports.items()]
    path.write_text("".join(lines) + f"export NO_PROXY={LOCAL_HOSTS}${{NO_PROXY:+,$NO_PROXY}}\n")


def read_key(path: Path) -> str | None:
    """The key that an earlier `up` wrote there."""
    if not path.exists():
        return None
    lines = (line.removeprefix("export ").partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines}.get("HUD_API_KEY")


def environment_of_command(exports: Mapping[str, str]) -> dict[str, str]:
    """Our own environment, pointed at the box."""
    kept = [os.environ[name] for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)]
    no_proxy = ",".join([LOCAL_HOSTS, *kept[:1]])
    return {**os.environ, "NO_PROXY": no_proxy, "no_proxy": no_proxy, **exports}
