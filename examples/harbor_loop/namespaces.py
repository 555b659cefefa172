"""Harbor's environment for a machine without containers: this machine's programs, under a root folder of the trial.

Needs user namespaces. No image is built: a task sees this machine's /usr and /etc, and folders of its own for the rest.
It is no sandbox; use it for tasks that you trust.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
from pathlib import Path

from harbor.environments.base import BaseEnvironment, ExecResult

ENTER = """
set -e
for name in usr bin sbin lib lib64 etc dev proc; do
  if [ -e /$name ]; then mkdir -p "$1/$name"; mount --rbind /$name "$1/$name"; fi
done
exec chroot "$1" /bin/bash -c "$2"
"""


class NamespaceEnvironment(BaseEnvironment):
    """Each command runs in mount and user namespaces of its own; files stay in the folder between them."""

    _root: Path

    @staticmethod
    def type() -> str:
        return "namespaces"

    def _validate_definition(self) -> None:
        if shutil.which("unshare") is None:
            raise FileNotFoundError("unshare, of util-linux, is not installed")

    async def start(self, force_build: bool) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="harbor-"))
        for folder in ("app", "logs/agent", "logs/verifier", "logs/artifacts", "tests", "tmp", "root"):
            (self._root / folder).mkdir(parents=True)

    async def stop(self, delete: bool) -> None:
        if delete:
            shutil.rmtree(self._root)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        self._inside(target_path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source_path, self._inside(target_path))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        shutil.copytree(source_dir, self._inside(target_dir), dirs_exist_ok=True)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        shutil.copy2(self._inside(source_path), target_path)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        shutil.copytree(self._inside(source_dir), target_dir, dirs_exist_ok=True)

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        set_up = [f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()]
        inside = "; ".join([*set_up, f"cd {shlex.quote(cwd or '/app')}", command])
        entering = ["unshare", "--map-root-user", "--mount", "sh", "-c", ENTER, "sh", str(self._root), inside]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *entering, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(), timeout_sec)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return ExecResult(stdout=stdout.decode(), stderr=stderr.decode(), return_code=process.returncode or 0)

    def _inside(self, path: str) -> Path:
        return self._root / path.lstrip("/")
