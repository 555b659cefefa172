"""Composition root of a runner process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import secrets
import signal
import socket
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from runner.agents.pool import AgentPool, PoolSettings
from runner.environments.opening import NoIsolation, open_environments
from runner.environments.settings import Gateway
from runner.settings import RunnerSettings
from runner.tunnels.doors import Doors
from runner.tunnels.listener import listening_for_tunnels
from runner.worker.api import ServerApi, server_trust
from runner.worker.archives import Archives
from runner.worker.builds import Builds
from runner.worker.carrying import Carriers
from runner.worker.refusals import KeyRefused, Refused
from runner.worker.rollouts import Rollouts
from runner.worker.sessions import Sessions
from runner.worker.worker import AgentKeys, Worker, WorkerSettings
from wire.placements import Registration, tunnel_url
from wire.process.exits import GaveUp
from wire.process.origins import advertised_host, bracketed, listen
from wire.process.tls import listening_context
from wire.process.tokens import Tokens

log = structlog.get_logger(__name__)


def run(settings: RunnerSettings) -> None:
    """Work until SIGTERM or SIGINT. Raises GaveUp if the server refuses the key or what this runner is, ValueError for
    an address that is none, OSError if it cannot listen."""
    address = urlsplit(settings.server)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"the server's address is like https://headway.example, not {settings.server!r}")
    if settings.advertise_url is not None:
        tunnel_url(settings.advertise_url)
    listening = listen(settings.host, settings.port)
    with _folder_of_ours(settings.folder):
        try:
            asyncio.run(_run(settings, listening))
        except (KeyRefused, Refused, NoIsolation) as refused:
            raise GaveUp(str(refused)) from None
    log.info("runner_ended")


@contextmanager
def _folder_of_ours(folder: Path) -> Generator[None]:
    """Raises ValueError if another runner that lives keeps its files there."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / "lock").open("w") as lock:
        os.umask(0o022)  # inside the folder: sandboxes have users of their own, who are let in by mounts
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another runner keeps its files in {folder}; give this one another --data-dir") from None
        yield


async def _run(settings: RunnerSettings, listening: socket.socket) -> None:
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    token, doors, keys = secrets.token_urlsafe(32), Doors(), AgentKeys()
    verify = server_trust(settings.plane_ca)
    async with AsyncExitStack() as stack:
        api = ServerApi(settings.server, Tokens(settings.key, settings.key_file), verify)
        stack.push_async_callback(api.close)
        gateway = Gateway(settings.server, keys.get, verify)
        environments = await open_environments(settings.folder / "environments", settings.environments, gateway)
        stack.push_async_callback(environments.close)
        pool = PoolSettings(settings.rollouts_per_process, server_ca=settings.plane_ca)
        agents = AgentPool(settings.server, settings.folder / "agents", pool)
        stack.push_async_callback(agents.close)
        carriers: Carriers = {
            "build": Builds(environments),
            "session": Sessions(environments, doors, lambda: worker.beat_now()),
            "rollout": Rollouts(environments, agents),
        }
        registration = _registration(settings, environments.isolation, listening, token)
        archives = Archives(settings.folder / "archives", settings.archives_bytes)
        worker = Worker(api, registration, WorkerSettings(settings.slots, settings.drain_s), carriers, archives, keys)
        tls = listening_context(settings.tls)
        tunnels = listening_for_tunnels(listening, token, doors, lambda: worker.is_well, tls)
        await stack.enter_async_context(tunnels)
        await worker.run(stopping)


def _registration(settings: RunnerSettings, isolation: str, listening: socket.socket, token: str) -> Registration:
    port, scheme = listening.getsockname()[1], "wss" if settings.tls.is_on else "ws"
    return Registration(
        host=socket.gethostname(),
        pid=os.getpid(),
        slots=settings.slots,
        labels=list(settings.labels),
        team=settings.team,
        isolation=isolation,
        url=settings.advertise_url or f"{scheme}://{bracketed(advertised_host(settings.host))}:{port}",
        tunnel_token=token,
        versions={"headway": _version("headway"), "hud": _version("hud"), "python": platform.python_version()},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
