"""System calls that no environment needs and that reach past namespaces and Landlock, refused with EPERM by a filter
(seccomp, BPF): kernel keyrings, io_uring (it opens sockets unseen by filters), BPF, performance counters, sockets of
families that have no namespaces, as VSOCK, which leads to the machine's hypervisor."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Collection, Sequence

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

# In the order: architecture, socket, and what is refused: add_key, request_key, keyctl, bpf, perf_event_open,
# userfaultfd, kexec_load, kexec_file_load, open_by_handle_at, and (the same everywhere) io_uring_setup.
_TABLE = {
    "x86_64": (0xC000003E, 41, (248, 249, 250, 321, 298, 323, 246, 320, 304, 425)),
    "aarch64": (0xC00000B7, 198, (217, 218, 219, 280, 241, 282, 104, 294, 265, 425)),
}


def restrict_calls(families: Collection[int], streams_only: bool = False) -> None:
    """Of this process, and all that it forks and executes. `families`: of the sockets that it may make; with
    `streams_only` these are of TCP alone. Pairs of Unix sockets are not concerned. The process must not gain
    privileges any more (`kernel.gain_no_privileges`). Raises OSError, also on a machine that is not in the table."""
    if platform.machine() not in _TABLE:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    program = _program(families, streams_only)
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(header), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _program(families: Collection[int], streams_only: bool) -> Sequence[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, constant); a jump counts the instructions that it skips."""
    architecture, socket_number, refused = _TABLE[platform.machine()]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32),
        refuse,
    ]
    for number in refused:
        program += [(_JUMP_EQUAL, 0, 1, number), refuse]
    program += [(_JUMP_EQUAL, 1, 0, socket_number), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _ARGUMENTS)]
    known = sorted(families)
    program += [(_JUMP_EQUAL, len(known) - at, 0, family) for at, family in enumerate(known)]
    program += [refuse]
    if streams_only:
        program += [
            (_LOAD, 0, 0, _ARGUMENTS + 8),
            (_AND, 0, 0, 0xF),
            (_JUMP_EQUAL, 1, 0, socket.SOCK_STREAM),
            refuse,
            (_LOAD, 0, 0, _ARGUMENTS + 16),
            (_JUMP_EQUAL, 2, 0, 0),
            (_JUMP_EQUAL, 1, 0, socket.IPPROTO_TCP),
            refuse,
        ]
    return [*program, (_RETURN, 0, 0, _ALLOW)]
