"""Landlock, for runners that are not root where user namespaces are forbidden: the kernel refuses a process, and all
that it forks, files and ports that were not named when it was confined. Needs its ABI 6 (Linux 6.12), which keeps
signals and abstract sockets inside, and a filter of system calls for what Landlock does not see: sockets that are not
of TCP.

What it does not do, and namespaces do: all processes have the runner's user; those of others can be seen (by name, not
their memory or variables); there is one loopback, on which an environment reaches the gateway's relay alone, so that
its own servers, as of MCP, cannot be reached; disk is bounded by looking at it every second.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct

from runner.environments.isolation import kernel
from runner.environments.isolation.base import Sandbox, SessionPlace
from runner.environments.isolation.none import Unconfined, tasks_of_user
from runner.environments.isolation.rlimits import set_limits
from runner.environments.isolation.seccomp import restrict_calls

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH, _NET_PORT = 1, 2
_VERSION_FLAG = 1
_LEAST_ABI = 6
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
_EVERY_FILE_RIGHT = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_BIND, _CONNECT = 1, 2
_SCOPE_ABSTRACT, _SCOPE_SIGNAL = 1, 2
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/pki", "/etc/protocols", "/etc/services"),
    *("/etc/ssl", "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/sys", "/proc/filesystems", "/sys/devices/system/cpu"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")


class Landlock(Unconfined):
    """`Isolation` by Landlock."""

    name = "landlock"

    def trouble(self) -> str | None:
        if os.geteuid() == 0:
            return "Landlock leaves root too much; run the runner as another user, or where it may make namespaces"
        try:
            abi = _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))
        except OSError as error:
            return f"this kernel has no Landlock, or it is off: {error.strerror}"
        if abi < _LEAST_ABI:
            return f"this kernel's Landlock has the ABI {abi}; {_LEAST_ABI} is needed (Linux 6.12)"
        return None

    def enter(self, sandbox: Sandbox) -> None:
        super().enter(sandbox)
        kernel.gain_no_privileges()
        readable = [bind.source for bind in sandbox.binds if not bind.writable]
        writable = [bind.source for bind in sandbox.binds if bind.writable]
        rules = dict.fromkeys((*_SYSTEM, "/proc", *readable), _READ)
        rules |= {path: _EVERY_FILE_RIGHT for path in (*_DEVICES, *writable, sandbox.scratch) if path}
        _restrict(rules)
        families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)[: 3 if sandbox.network == "host" else 2]
        restrict_calls(families, streams_only=sandbox.network != "host")

    def confine(self, place: SessionPlace, ports: list[int]) -> None:
        set_limits(place.limits, num_others=tasks_of_user())  # which /proc tells, as long as it can be read
        rules = dict.fromkeys((*_SYSTEM, *place.readable), _READ)
        rules |= dict.fromkeys((*_DEVICES, place.scratch), _EVERY_FILE_RIGHT)
        _restrict(rules, None if place.network == "host" else ports)

    def confine_build(self, sandbox: Sandbox, ports: list[int]) -> None:
        _restrict({"/": _EVERY_FILE_RIGHT}, ports)
        set_limits(sandbox.limits, num_others=tasks_of_user())


def _restrict(rules: dict[str, int], ports: list[int] | None = None) -> None:
    """This process to those files, on top of earlier restrictions. `ports`: of TCP, those that it may connect to; then
    it may listen on whichever is free (port 0). None: that is not restricted."""
    handled_net = 0 if ports is None else _BIND | _CONNECT
    attributes = struct.pack("=QQQ", _EVERY_FILE_RIGHT, handled_net, _SCOPE_ABSTRACT | _SCOPE_SIGNAL)
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        for path, rights in rules.items():
            _allow_path(ruleset, path, rights)
        for port in ports or []:
            _add(ruleset, _NET_PORT, struct.pack("=QQ", _CONNECT, port))
        if ports is not None:
            _add(ruleset, _NET_PORT, struct.pack("=QQ", _BIND, 0))
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not every system has each of them
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        _add(ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor))
    finally:
        os.close(descriptor)


def _add(ruleset: int, kind: int, attributes: bytes) -> None:
    _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), attributes, ctypes.c_uint(0))


def _syscall(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


_libc = ctypes.CDLL(None, use_errno=True)
