"""A container on a host: what `tests.fleet.container` is told, and how to reach what it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fleet import container
from tests.fleet.images import ROOT, Image, image_of
from tests.fleet.network import Host
from tests.fleet.variables import NotConfigured, expanded

_PREFIX = "/opt/headway"  # the virtual environment of the images
_SOURCES = "/opt/src"
_PACKAGES = ("wire", "store", "server", "trainer", "sampler", "runner", "cli", "migrations", "docs")
_OF_ETC = ("nsswitch.conf", "ld.so.cache", "ld.so.conf", "localtime", "mime.types", "protocols", "services")
_COMMANDS = {"headway": ("cli.start", "start"), "torchrun": ("torch.distributed.run", "main")}
"""Scripts of the images' environment, by module and function: those here name this machine's Python."""
_POD = Path("/run/headway-pod")  # where what prepares the root file system finds the pod's folder
_START_S = 30.0
_IN_NAMESPACES = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL")


def user_of(spec: Mapping[str, Any], definition: Mapping[str, Any], image: Image) -> int:
    """Whom the container runs as. Raises NotConfigured where that would be root and must not."""
    pods, own = spec.get("securityContext", {}), definition.get("securityContext", {})
    uid = int(own.get("runAsUser", pods.get("runAsUser", image.user)))
    if uid == 0 and own.get("runAsNonRoot", pods.get("runAsNonRoot")):
        raise NotConfigured(f"{definition['name']} must not run as root, and nobody says as whom else")
    return uid


def command_of(definition: Mapping[str, Any], image: Image, env: Mapping[str, str]) -> list[str]:
    """`command` replaces the image's entry point and with it its arguments; `args` replace these alone."""
    words = [*definition.get("command", image.entrypoint)]
    words += definition.get("args", [] if "command" in definition else image.command)
    return [expanded(word, env) for word in words]


class Container:
    """Runs from its construction on. Raises NotConfigured, and AssertionError if it cannot be started at all."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        spec: Mapping[str, Any],
        definition: Mapping[str, Any],
        env: Mapping[str, str],
        mounts: Sequence[tuple[str, Path, bool]],
    ) -> None:
        """folder: of the pod; its file `hosts` is the container's /etc/hosts."""
        self.name = definition["name"]
        image = image_of(definition["image"])
        self._uid = user_of(spec, definition, image)
        own, pods = definition.get("securityContext", {}), spec.get("securityContext", {})
        self._gid = own.get("runAsGroup", pods.get("runAsGroup", self._uid))
        self._groups = [group for group in (pods.get("fsGroup"), *pods.get("supplementalGroups", ())) if group]
        self._capabilities = own.get("capabilities", {})
        self._may_escalate = own.get("allowPrivilegeEscalation", True)
        self.env = {"HOME": "/home/headway", **image.env, **env, "HOSTNAME": folder.name}
        place = folder / self.name
        (place / "root").mkdir(parents=True, exist_ok=True)
        outside = {f"/run/headway-volume-{n}": source for n, (_, source, _) in enumerate(mounts)}
        here = _POD / self.name
        (place / "spec.json").write_text(
            json.dumps(
                {
                    "pid_file": str(here / "pid"),
                    "root": str(here / "root"),
                    "hostname": folder.name,
                    "read_only": own.get("readOnlyRootFilesystem", False),
                    "argv": command_of(definition, image, self.env),
                    "become": self._become(),
                    "env": self.env,
                    "cwd": definition.get("workingDir", image.workdir),
                    **_file_system(image, folder.name),
                    "binds": _binds(image, here)
                    + [[path, at, ro] for at, (path, _, ro) in zip(outside, mounts, strict=True)],
                }
            )
        )
        (place / "spec.json").chmod(0o600)
        _write_programs(place)
        self._pid_file = place / "pid"
        self._pid_file.unlink(missing_ok=True)
        self.log = folder / f"{self.name}.log"
        become_container = (sys.executable, "-S", container.__file__, str(here / "spec.json"))
        self._process = host.start(
            [*_IN_NAMESPACES, *become_container], {}, mounts={str(_POD): folder, **outside}, log=self.log
        )
        self.pid = self._own_pid()

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.poll()

    def signal(self, signum: signal.Signals) -> None:
        """To the command alone, as a container runtime does."""
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """With all its processes: they end with process 1."""
        self.signal(signal.SIGKILL)
        self._process.kill()

    def execute(self, argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its user. Raises subprocess.TimeoutExpired."""
        enter = ("nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
        return subprocess.run(
            [*enter, *self._become(), *argv],
            env={**self.env, "PATH": f"{self.env['PATH']}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _become(self) -> list[str]:
        groups = f"--groups={','.join(map(str, self._groups))}" if self._groups else "--clear-groups"
        words = ["/usr/bin/setpriv", f"--reuid={self._uid}", f"--regid={self._gid}", groups, "--inh-caps=-all"]
        if "ALL" in self._capabilities.get("drop", ()):
            words.append(
                ",".join(["--bounding-set=-all", *(f"+{c.lower()}" for c in self._capabilities.get("add", ()))])
            )
        return words if self._may_escalate else [*words, "--no-new-privs"]

    def _own_pid(self) -> int:
        deadline = time.monotonic() + _START_S
        while self.poll() is None and time.monotonic() < deadline:
            if self._pid_file.exists() and (text := self._pid_file.read_text()):
                return int(text)
            time.sleep(0.02)
        raise AssertionError(f"{self.name} could not be started\n{self.log.read_text()[-3000:]}")


def _file_system(image: Image, hostname: str) -> dict[str, Any]:
    usr = [name for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32") if Path("/", name).is_symlink()]
    uid = int(image.user)
    return {
        "links": {f"/{name}": os.readlink(f"/{name}") for name in usr},
        "folders": [
            ["/tmp", 0o1777, 0],
            ["/home/headway", 0o755, uid],
            [image.workdir, 0o755, uid],
            *([folder, 0o755, uid] for folder in image.folders),
        ],
        "copies": {f"/etc/{name}": f"/etc/{name}" for name in _OF_ETC if Path("/etc", name).exists()},
        "files": {
            "/etc/passwd": f"root:x:0:0::/root:/bin/sh\nheadway:x:{uid}:{uid}::/home/headway:/bin/sh\n",
            "/etc/group": f"root:x:0:\nheadway:x:{uid}:\n",
            "/etc/hostname": f"{hostname}\n",
            "/etc/resolv.conf": "",
        },
    }


def _binds(image: Image, here: Path) -> list[list[Any]]:
    programs, site = here / "programs", Path(_PREFIX) / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    whole = [
        path for path in ("/bin", "/sbin", "/lib", "/lib64") if Path(path).is_dir() and not Path(path).is_symlink()
    ]
    return [
        *([path, path, True] for path in ("/usr", "/sys", *whole)),
        *([path, path, True] for path in ("/etc/ssl", "/etc/alternatives") if Path(path).exists()),
        *([path, path, True] for path in {sys.base_prefix} if not path.startswith("/usr")),
        [_PREFIX, str(Path(sys.prefix).resolve()), True],
        *([f"{_PREFIX}/bin/{name}", str(programs / name), True] for name in _COMMANDS),
        [str(site / _editable().name), str(programs / "sources.pth"), True],
        *([f"{_SOURCES}/{name}", str(ROOT / name), True] for name in _PACKAGES),
        *([path, str(source), True] for path, source in image.files.items()),
        ["/etc/hosts", str(_POD / "hosts"), False],
    ]


def _write_programs(place: Path) -> None:
    """Headway as installed in the image: its commands, and where Python finds its packages."""
    programs = place / "programs"
    programs.mkdir(exist_ok=True)
    for name, (module, function) in _COMMANDS.items():
        script = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        (programs / name).write_text(f"#!{_PREFIX}/bin/python\n{script}")
        (programs / name).chmod(0o755)
    (programs / "sources.pth").write_text(f"{_SOURCES}\n")


def _editable() -> Path:
    """What leads Python from the virtual environment to this checkout; in a container another file is in its place."""
    found = sorted(Path(sysconfig.get_path("purelib")).glob("__editable__.headway-*.pth"))
    assert found, "the tests run in an environment with an editable installation of Headway: `make .venv/installed-dev`"
    return found[0]
