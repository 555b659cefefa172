"""Virtual environments by the digest of their packages: made with uv, once at a time, in sandboxes of their own.

Packages that come as wheels run no code when they are installed, so all builds share uv's cache for them. Where a
package has to be built from its source, its code runs: the whole set is installed again with a cache that is thrown
away, so that it can leave nothing in what others install.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from runner.environments.base import BuildFailed, Log
from runner.environments.dependencies import Dependencies
from runner.environments.fork_servers import SandboxProcess, last_line
from runner.environments.index_proxy import INDEX_VARIABLES, IndexProxy, hosts_of_indexes
from runner.environments.isolation.base import Bind
from runner.environments.sandboxing import SOURCE_INSIDE, Sandboxes, own_prefixes, own_python
from runner.environments.watching import size_of

_PASSED_ON = (*INDEX_VARIABLES, "UV_SYSTEM_CERTS", "UV_NATIVE_TLS", "SSL_CERT_FILE", "SSL_CERT_DIR", "UV_HTTP_TIMEOUT")
_REQUIREMENTS = "requirements-of-headway.txt"


class VirtualEnvironments:
    """Under `folder`: a folder for each digest; under another name until it is whole."""

    def __init__(self, folder: Path, sandboxes: Sandboxes, index_hosts: str = "") -> None:
        self._folder, self._cache = folder / "venvs", folder / "packages"
        self._sandboxes, self._hosts = sandboxes, hosts_of_indexes(index_hosts)
        for made in (self._folder, self._cache):
            made.mkdir(parents=True, exist_ok=True)
        self._give_to_builder(self._cache)
        for half_made in self._folder.glob(".*"):
            shutil.rmtree(half_made, ignore_errors=True)
        self._locks: dict[str, asyncio.Lock] = {}

    async def ready(
        self, dependencies: Dependencies, source: Path, variables: dict[str, str], log: Log, no_cache: bool
    ) -> Path:
        """Its folder. `variables`: of the build alone. Raises BuildFailed."""
        place = self._folder / dependencies.digest
        async with self._locks.setdefault(dependencies.digest, asyncio.Lock()):
            if no_cache or not place.exists():
                await self._make(place, dependencies, source, variables, log)
            else:
                log("packages: as they were installed before")
        return place

    def kept(self) -> list[Path]:
        """Folders that could be made again."""
        return list(self._folder.iterdir())

    async def _make(
        self, place: Path, dependencies: Dependencies, source: Path, variables: dict[str, str], log: Log
    ) -> None:
        half_made = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
        try:
            wheels = await self._install(half_made, dependencies, source, {}, log, from_source=False)
            if wheels is not None:
                log("not all packages come as wheels: building them, apart from the cache that all share")
                failed = await self._install(half_made, dependencies, source, variables, log, from_source=True)
                if failed is not None:
                    raise BuildFailed(f"its packages cannot be installed: {failed}")
            await self._compile(half_made, log)
            await asyncio.to_thread(_put_in_place, half_made, place)
        finally:
            await asyncio.to_thread(shutil.rmtree, half_made, True)

    async def _install(
        self,
        place: Path,
        dependencies: Dependencies,
        given_source: Path,
        variables: dict[str, str],
        log: Log,
        from_source: bool,
    ) -> str | None:
        """What uv said last, if it failed. A new virtual environment each time: uv runs its Python, and so what an
        earlier attempt put there."""
        await asyncio.to_thread(self._empty, place)
        source = given_source
        uv = [_uv()]
        made = [*uv, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", str(own_python()), str(place)]
        failed = await self._run(made, place, None, {}, log, None)
        if failed is not None:
            raise BuildFailed(f"the virtual environment cannot be made: {failed}")
        async with self._private_folder() as private:
            requirements = private / _REQUIREMENTS
            requirements.write_text("".join(f"{line}\n" for line in dependencies.lines))
            requirements.chmod(0o644)
            install = [*uv, "pip", "install", "--python", str(place / "bin" / "python"), "--link-mode", "copy"]
            install += [] if from_source else ["--only-binary", ":all:"]
            install += ["-r", str(requirements)] if dependencies.lines else []
            if from_source:  # which writes beside it
                source = private / "source"
                await asyncio.to_thread(self._copy_for_builder, given_source, source)
            inside = SOURCE_INSIDE if self._sandboxes.isolation.has_own_root else str(source)
            if dependencies.file is not None:
                install += ["-r", f"{inside}/{dependencies.file}"]
            cache = private / "cache" if from_source else self._cache
            cache.mkdir(exist_ok=True)
            self._give_to_builder(cache)
            code = Bind(str(source), inside, writable=from_source)
            more = [Bind(str(requirements), str(requirements))]
            return await self._run(install, place, code, variables, log, cache, more)

    async def _compile(self, place: Path, log: Log) -> None:
        """To byte code: sandboxes see it read-only, and would compile it again at each start."""
        python = str(place / "bin" / "python")
        arguments = [python, "-I", "-S", "-m", "compileall", "-q", "-q", "-j", "1", str(place / "lib")]
        await self._run(arguments, place, None, {}, lambda line: None, None)

    async def _run(
        self,
        arguments: list[str],
        place: Path,
        source: Bind | None,
        variables: dict[str, str],
        log: Log,
        cache: Path | None,
        more: list[Bind] | None = None,
    ) -> str | None:
        """The last line of what failed; None: it did not."""
        binds = [Bind(str(place), str(place), writable=True), Bind(_uv(), _uv()), *(more or [])]
        binds += [Bind(path, path) for path in _local_indexes()]
        if source is not None:
            binds.append(source)
        folder = "/" if source is None else source.target
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        given = {**passed_on, **variables, "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        if cache is not None:
            binds.append(Bind(str(cache), str(cache), writable=True))
        scratch = "" if self._sandboxes.isolation.has_own_root else str(self._sandboxes.make_scratch())
        given["UV_CACHE_DIR"] = str(cache or f"{scratch or '/tmp'}/cache")
        sandbox = self._sandboxes.of_build(arguments, given, binds, own_prefixes(), folder, scratch)
        cgroup = await asyncio.to_thread(self._sandboxes.make_cgroup, f"build-{uuid.uuid4().hex}", sandbox.limits)
        process = await SandboxProcess.start(sandbox, log, cgroup)
        watching = asyncio.create_task(
            _watch_size(process, [place, None if cache == self._cache else cache], sandbox.limits.disk_bytes, log)
        )
        proxy = IndexProxy(self._hosts if cache is not None else (), log)
        try:
            first = await process.channel.receive()
            if first is not None and first.descriptors:
                await proxy.serve(socket.socket(fileno=first.descriptors.pop()))
            status = await process.wait()
        finally:
            watching.cancel()
            await proxy.close()
            await process.kill()
            if cgroup is not None:
                await asyncio.to_thread(cgroup.remove)
            if scratch:
                await asyncio.to_thread(shutil.rmtree, scratch, True)
        return None if status == 0 else last_line(process.tail) or f"status {status}"

    @asynccontextmanager
    async def _private_folder(self) -> AsyncGenerator[Path]:
        folder = self._sandboxes.make_scratch()
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    def _copy_for_builder(self, source: Path, copy: Path) -> None:
        shutil.copytree(source, copy, symlinks=True)
        self._give_to_builder(copy)
        for path in copy.rglob("*"):
            self._give_to_builder(path)

    def _empty(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self._give_to_builder(place)

    def _give_to_builder(self, folder: Path) -> None:
        builder = self._sandboxes.builder
        if builder is not None:
            os.chown(folder, builder, builder, follow_symlinks=False)


async def _watch_size(process: SandboxProcess, folders: list[Path | None], max_bytes: int, log: Log) -> None:
    """These are folders of the machine's disk: nothing else bounds them."""
    while True:
        await asyncio.sleep(2.0)
        sizes = [await asyncio.to_thread(size_of, str(folder)) for folder in folders if folder is not None]
        if sum(sizes) > max_bytes:
            log(f"its packages take more than {max_bytes >> 30} GiB")
            await process.kill()


def _put_in_place(half_made: Path, place: Path) -> None:
    """Sessions that use what was there before keep it until they end."""
    if place.exists():
        place.rename(place.with_name(f".{place.name}-old-{uuid.uuid4().hex}"))
    half_made.rename(place)


def _uv() -> str:
    from uv import find_uv_bin  # at the first build: a runner of containers has none

    return os.path.realpath(find_uv_bin())


def _local_indexes() -> list[str]:
    """Folders of this machine that uv's variables name."""
    words = [word for name in INDEX_VARIABLES for word in os.environ.get(name, "").replace(",", " ").split()]
    paths = [urlsplit(word).path if word.startswith("file:") else word for word in words]
    paths.append(os.environ.get("SSL_CERT_FILE", ""))
    return [
        path
        for path in paths
        if path.startswith("/") and os.path.exists(path) and not path.startswith(("/etc", "/usr"))
    ]
