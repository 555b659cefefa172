"""Namespaces of users, mounts, processes, network, IPC and host name, around the sandbox of a version, and then around
each session in it. The order of calls is bubblewrap's.

What a process in there sees is a root of its own: the system's programs and libraries, the Python and the packages of
its version, its code, all of them read-only, a /tmp of bounded size, and a /proc of its own processes. Its network is
a loopback of its own.

As root, the mounts are made with root's rights, then the sandbox gets a user namespace whose ids are unused ones of the
machine: its root is `Sandbox.user_id`, and each session has a user of its own. Otherwise all of them are the runner's
user, in namespaces of users in which they are somebody else.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from runner.environments.isolation import kernel
from runner.environments.isolation.base import Limits, Network, Sandbox, SessionPlace
from runner.environments.isolation.kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC
from runner.environments.isolation.rlimits import set_limits
from runner.environments.isolation.seccomp import restrict_calls

_USER = 1000
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "pki",
    "protocols",
    "services",
    "ssl",
    "timezone",
)
_OF_NETWORK = ("resolv.conf", "hosts", "nsswitch.conf", "gai.conf")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_WAIT_STATUS_SIGNALLED = 128


class Namespaces:
    """`Isolation` by namespaces."""

    name = "namespaces"
    has_own_root = True
    has_own_network = True
    has_own_processes = True

    def takes_user_ids(self) -> bool:
        return os.geteuid() == 0

    def trouble(self) -> str | None:
        """Makes a sandbox with a session, in processes of its own."""
        probe = [sys.executable, "-I", "-S", "-c", _PROBE, str(Path(__file__).parents[3])]
        try:
            done = subprocess.run(probe, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"namespaces cannot be tried out: {error}"
        if done.returncode == 0 and done.stdout.strip() == "works":
            return None
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return f"namespaces cannot be made here: {said[-1]}"

    def enter(self, sandbox: Sandbox) -> None:
        user, group = os.geteuid(), os.getegid()
        if sandbox.user_id is None:
            kernel.unshare(kernel.CLONE_NEWUSER)
            kernel.map_self(_USER, _USER, user, group)
        kernel.unshare(kernel.CLONE_NEWPID)
        ready, mapped = _Signal(), _Signal()
        child = os.fork()
        if child:
            if sandbox.user_id is not None:
                ready.wait()
                _map_range(child, sandbox)
                mapped.give()
            _wait_and_exit(child)
        kernel.die_with_parent(signal.SIGKILL)
        kernel.unshare(_namespaces(sandbox.network))
        if sandbox.network == "none":
            kernel.raise_loopback()
        socket.sethostname("environment")
        _build_root(sandbox)
        if sandbox.user_id is not None:
            os.setgroups([])
            kernel.unshare(kernel.CLONE_NEWUSER)
            ready.give()
            mapped.wait()
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            kernel.unshare(kernel.CLONE_NEWNS)  # its own: what was mounted so far cannot be taken off in it
        kernel.gain_no_privileges()
        forks_for_others = sandbox.user_id is not None and not sandbox.is_build
        kept = (kernel.CAP_SETUID, kernel.CAP_SETGID, kernel.CAP_KILL) if forks_for_others else ()
        kernel.keep_capabilities(*kept)
        kernel.die_with_parent(signal.SIGKILL)
        restrict_calls(_FAMILIES)

    def enter_session(self, place: SessionPlace) -> None:
        if place.user_id is not None:
            inside = _USER + place.number
            os.setgroups([])
            os.setresgid(inside, inside, inside)
            os.setresuid(inside, inside, inside)
            kernel.set_dumpable(True)  # its files in /proc are root's otherwise
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER)
        kernel.map_self(_USER, _USER, user, group)
        kernel.unshare(kernel.CLONE_NEWPID | _namespaces(place.network))
        if os.fork():
            os._exit(0)
        os.setsid()
        if place.network == "none":
            kernel.raise_loopback()
        kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount_scratch(place.limits)
        _bring_source(place)
        kernel.keep_capabilities()
        kernel.set_dumpable(False)  # its children are of the same user, and must not trace it

    def end_session(self) -> None:
        pass  # the first process of a namespace of processes takes all others with it

    def confine(self, place: SessionPlace, ports: list[int]) -> None:
        kernel.set_dumpable(True)
        kernel.gain_no_privileges()
        set_limits(place.limits, num_others=0)

    def confine_build(self, sandbox: Sandbox, ports: list[int]) -> None:
        set_limits(sandbox.limits, num_others=0)


def _namespaces(network: Network) -> int:
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    return flags | (kernel.CLONE_NEWNET if network == "none" else 0)


class _Signal:
    """From one process to another, once. Whoever waits ends if the other has ended."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def give(self) -> None:
        os.write(self._write, b"1")

    def wait(self) -> None:
        os.close(self._write)
        if not os.read(self._read, 1):
            os._exit(1)


def _map_range(child: int, sandbox: Sandbox) -> None:
    assert sandbox.user_id is not None
    first, number = sandbox.session_user_ids
    ids = f"0 {sandbox.user_id} 1\n" + (f"{_USER} {first} {number}\n" if number else "")
    Path(f"/proc/{child}/uid_map").write_text(ids)
    Path(f"/proc/{child}/gid_map").write_text(ids)


def _wait_and_exit(child: int) -> None:
    """Nothing else is left of this process than its child's status; it holds no descriptor open."""
    os.closerange(0, 256)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else _WAIT_STATUS_SIGNALLED - code)


def _build_root(sandbox: Sandbox) -> None:
    """A new root on a file system in memory; what is bound is found under the old one until it is taken off."""
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=8m,mode=755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    kernel.mount("/new", "/new", None, MS_BIND | MS_REC)
    os.umask(0o022)
    for name in _SYSTEM:
        _bring_system(name)
    _make_etc(sandbox.network)
    _make_devices()
    os.makedirs("/new/proc")
    kernel.mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in ("/tmp", "/var/tmp", "/run", "/root", "/home/user", "/environment"):
        os.makedirs(f"/new{name}", exist_ok=True)
    os.symlink("/run", "/new/var/run")
    size = sandbox.limits.disk_bytes if sandbox.is_build else 64 << 20
    kernel.mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=1777")
    for bind in sandbox.binds:
        _bind(f"/old{bind.source}", f"/new{bind.target}", bind.writable)
    kernel.restrict_mounts("/new", kernel.ATTR_RDONLY, recursive=False)
    kernel.unmount("/old")
    os.chdir("/new")
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")


def _bring_system(name: str) -> None:
    old = f"/old{name}"
    if os.path.islink(old):
        os.symlink(os.readlink(old), f"/new{name}")
    elif os.path.isdir(old):
        _bind(old, f"/new{name}")


def _make_etc(network: Network) -> None:
    os.makedirs("/new/etc")
    for name in _ETC + (_OF_NETWORK if network == "host" else ()):
        old, new = f"/old/etc/{name}", f"/new/etc/{name}"
        if os.path.islink(old) and name == "localtime":
            os.symlink(os.readlink(old), new)
        elif os.path.exists(old):
            _bind(old, new)
    Path("/new/etc/passwd").write_text(
        f"root:x:0:0:root:/tmp:/bin/sh\nuser:x:{_USER}:{_USER}:user:/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    Path("/new/etc/group").write_text(f"root:x:0:\nuser:x:{_USER}:\nnogroup:x:65534:\n")
    if network != "host":
        Path("/new/etc/hosts").write_text("127.0.0.1 localhost environment\n::1 localhost\n")
        Path("/new/etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")


def _make_devices() -> None:
    os.makedirs("/new/dev")
    for name in _DEVICES:
        if os.path.exists(f"/old/dev/{name}"):
            Path(f"/new/dev/{name}").touch()
            kernel.mount(f"/old/dev/{name}", f"/new/dev/{name}", None, MS_BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/new/dev/{name}")
    os.makedirs("/new/dev/pts")
    os.makedirs("/new/dev/shm")
    kernel.mount("devpts", "/new/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", "/new/dev/ptmx")


def _bind(old: str, new: str, writable: bool = False) -> None:
    if os.path.isdir(old):
        os.makedirs(new, exist_ok=True)
    elif not os.path.exists(new):  # it may be there with the folder that it lies in
        os.makedirs(os.path.dirname(new), exist_ok=True)
        Path(new).touch()
    kernel.mount(old, new, None, MS_BIND | MS_REC)
    attributes = kernel.ATTR_NOSUID | kernel.ATTR_NODEV
    kernel.restrict_mounts(new, attributes | (0 if writable else kernel.ATTR_RDONLY))


def _mount_scratch(limits: Limits) -> None:
    """One file system in memory for all that the session writes; beyond its size, writes fail with ENOSPC.

    What the sandbox shows below these folders stays: Python itself may be installed there.
    """
    targets = {"home": "/home/user", "shm": "/dev/shm", "var": "/var/tmp"}
    shown = [(os.open(path, os.O_PATH), path) for path in _mount_points_below("/tmp", *targets.values())]
    data = f"size={limits.disk_bytes},nr_inodes={max(1024, limits.disk_bytes >> 13)},mode=755"
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, data)
    for name, target in targets.items():
        os.makedirs(f"/tmp/.session/{name}")
        kernel.mount(f"/tmp/.session/{name}", target, None, MS_BIND)
    for descriptor, path in shown:
        _bind(f"/proc/self/fd/{descriptor}", path)
        os.close(descriptor)


def _mount_points_below(*folders: str) -> list[str]:
    """The outermost ones, outside of which nothing is mounted but the folders themselves (proc(5), mountinfo)."""
    found = list[str]()
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for escaped in sorted(line.split(" ")[4] for line in lines):
        path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped)
        outermost = not path.startswith(tuple(f"{one}/" for one in found))
        if outermost and path not in found and path.startswith(tuple(f"{one}/" for one in folders)):
            found.append(path)
    return found


def _bring_source(place: SessionPlace) -> None:
    if place.copies_source:
        shutil.copytree(place.source, "/tmp/.session/source", symlinks=True)
        kernel.mount("/tmp/.session/source", place.source, None, MS_BIND)


_PROBE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runner.environments.isolation.base import Limits, Network, Sandbox, SessionPlace
from runner.environments.isolation.namespaces import Namespaces
limits = Limits(memory_bytes=1 << 30, disk_bytes=1 << 20, processes=64)
root = os.geteuid() == 0
user = 1_900_000_000 if root else None
of = Sandbox("namespaces", [], {}, "/", limits, user_id=user, session_user_ids=(user + 1000, 1000) if user else (0, 0))
Namespaces().enter(of)
if os.fork():
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(0)
place = SessionPlace(0, "/environment", "", "", limits, 0, user_id=user)
Namespaces().enter_session(place)
Namespaces().confine(place, [])
os.write(1, b"works")
os._exit(0)
"""
