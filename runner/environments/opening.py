"""Makes a runner's environments."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runner.environments.base import Environments
from runner.environments.isolation import ISOLATIONS
from runner.environments.isolation.base import Isolation
from runner.environments.local import LocalEnvironments
from runner.environments.sandboxing import Sandboxes
from runner.environments.settings import EnvironmentSettings, Gateway


class NoIsolation(Exception):
    """Nothing that keeps environments apart works here, or not what was asked for. Its text is a sentence for the
    operator."""


async def open_environments(folder: Path, settings: EnvironmentSettings, gateway: Gateway) -> Environments:
    """Environments that keep their files under `folder`, which belongs to this runner alone. Raises NoIsolation."""
    if settings.network not in ("gateway", "all"):
        raise NoIsolation(f"--environment-network is gateway or all, not {settings.network!r}")

    def sandboxes() -> Sandboxes:
        isolation = choose_isolation(settings.isolation)
        folder.mkdir(parents=True, exist_ok=True)
        return Sandboxes(folder.resolve(), settings, isolation)

    made = await asyncio.to_thread(sandboxes)
    return LocalEnvironments(made.folder, settings, gateway, made)


def choose_isolation(name: str) -> Isolation:
    """The named one, or for `auto` the first of the table that works here, never `none`. Raises NoIsolation."""
    if name != "auto":
        if name not in ISOLATIONS:
            raise NoIsolation(f"no isolation {name!r}; known: auto, {', '.join(ISOLATIONS)}")
        trouble = ISOLATIONS[name].trouble()
        if trouble is not None:
            raise NoIsolation(f"isolation {name} does not work here: {trouble}")
        return ISOLATIONS[name]
    troubles: list[str] = []
    for isolation in ISOLATIONS.values():
        trouble = isolation.trouble() if isolation.name != "none" else "it has to be asked for"
        if trouble is None:
            return isolation
        troubles.append(f"{isolation.name}: {trouble}")
    raise NoIsolation(
        "nothing works here that would keep deployed code apart from this machine "
        f"({'; '.join(troubles)}). Run the runner where it does, or take the risk with --isolation none"
    )
