"""The environment that points the unmodified SDKs at this box, and the files that keep it.

<data-dir>/env         for `source`: addresses, and the key of a member
<data-dir>/admin-env   the same with the key of an operator
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from server.auth.spelling import tinker_spelling
from store.private_files import write_private

MEMBER_ENV, ADMIN_ENV = "env", "admin-env"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_PLANES = ("API", "RL", "GATEWAY", "TELEMETRY", "RUNTIME", "WEB")


def sdk_exports(origin: str, key: str) -> dict[str, str]:
    """One origin serves all planes of the HUD SDK, and the Tinker SDK."""
    hud = {**{f"HUD_{plane}_URL": origin for plane in _PLANES}, "HUD_API_KEY": key}
    return {**hud, "TINKER_BASE_URL": origin, "TINKER_API_KEY": tinker_spelling(key)}


def write_env(path: Path, exports: Mapping[str, str]) -> None:
    """For `source`, by any shell. Readable by the owner alone, since it holds a key.

    A proxy must not catch calls to this machine. Programs read NO_PROXY or no_proxy, most of them the latter first:
    both get what either held before.
    """
    lines = [f"export {name}={value}\n" for name, value in exports.items()]
    hosts = ",".join(_direct_hosts(exports))
    lines += [
        f'export no_proxy={hosts}"${{no_proxy:+,$no_proxy}}${{NO_PROXY:+,$NO_PROXY}}"\n',
        'export NO_PROXY="$no_proxy"\n',
    ]
    write_private(path, "".join(lines))


def read_env(path: Path) -> dict[str, str]:
    """What an earlier `up` wrote there; nothing where it wrote nothing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    named = (line.removeprefix("export ").partition("=") for line in lines)
    return {name: value for name, _, value in named}


def environment_of_command(exports: Mapping[str, str]) -> dict[str, str]:
    """Our own environment, pointed at the box."""
    return {**os.environ, **without_proxy(_direct_hosts(exports)), **exports}


def without_proxy(hosts: Iterable[str]) -> dict[str, str]:
    """Variables by which programs reach these hosts directly, besides those that our own environment names."""
    kept = [os.environ[name] for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)]
    no_proxy = ",".join([*hosts, *dict.fromkeys(kept)])
    return {"NO_PROXY": no_proxy, "no_proxy": no_proxy}


def _direct_hosts(exports: Mapping[str, str]) -> list[str]:
    """Hosts that no proxy may stand before: this machine's, and the one that the exports name."""
    named = urlsplit(exports["HUD_API_URL"]).hostname or ""
    return list(dict.fromkeys([*LOCAL_HOSTS, *([named] if re.fullmatch(r"[\w.:-]+", named) else [])]))
