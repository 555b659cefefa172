"""The port of isolation: what keeps a sandbox apart from the machine, and its sessions from one another.

A sandbox is one process, of one version of an environment or of one build, and all that it forks. Code of users may
run in it from its first instruction on: packages of a virtual environment can run code when Python starts. So `enter`
runs in a process of ours before anything of theirs is loaded. What `enter_session` and `confine` do comes on top; a
package that was made for it could leave that out, and would then be no further than its own version's sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Network = Literal["none", "host"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session, or of one build. `processes` counts threads. `disk_bytes`: of all files together. `cpus`: at a
    time, where there are control groups."""

    memory_bytes: int
    disk_bytes: int
    processes: int
    open_files: int = 4096
    cpu_s: int = 24 * 3600
    cpus: float | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the machine that a sandbox sees under `target`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a sandbox is made from; goes to the launcher as JSON.

    `scratch`: a folder for what it writes, where it cannot have a file system of its own. `user_id`: of its root, or of
    all its processes, on the machine; None: the runner's own. `session_user_ids`: the first of those that its sessions
    have, and how many.
    """

    isolation: str
    arguments: list[str]
    variables: dict[str, str]
    folder: str
    limits: Limits
    binds: list[Bind] = field(default_factory=list[Bind])
    scratch: str = ""
    network: Network = "none"
    user_id: int | None = None
    session_user_ids: tuple[int, int] = (0, 0)
    is_build: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Sandbox:
        parts: dict[str, Any] = {
            "limits": Limits(**fields["limits"]),
            "binds": [Bind(**bind) for bind in fields["binds"]],
            "session_user_ids": tuple(fields["session_user_ids"]),
        }
        return cls(**{**fields, **parts})


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """What a session is made from; goes to the fork server as JSON.

    `number`: which of the sandbox's user ids is its own. `source`: the folder of its code; `copies_source`: it gets a
    copy of it, and may write there. `target`: what is served, a file or folder. `port`: of the gateway on its loopback.
    `scratch`: as a sandbox's; `readable`: what it sees beside it and the system. `ours`: where our own packages are
    found; `keeps_ours`: its code imports them.
    """

    number: int
    source: str
    target: str
    name: str
    limits: Limits
    port: int
    copies_source: bool = False
    ours: str = ""
    keeps_ours: bool = False
    variables: dict[str, str] = field(default_factory=dict[str, str])
    scratch: str = ""
    readable: list[str] = field(default_factory=list[str])
    network: Network = "none"
    user_id: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SessionPlace:
        limits: Any = Limits(**fields["limits"])
        return cls(**{**fields, "limits": limits})


class Isolation(Protocol):
    """One way to do it. `enter`, `enter_session` and `confine` run in processes that are made for them."""

    @property
    def name(self) -> str: ...

    @property
    def has_own_root(self) -> bool:
        """Whether sandboxes have a file system of their own, so that `Bind.target` may differ from `source`."""
        ...

    @property
    def has_own_network(self) -> bool:
        """Whether each session has a loopback of its own."""
        ...

    @property
    def has_own_processes(self) -> bool:
        """Whether all processes of a session end with its first."""
        ...

    def takes_user_ids(self) -> bool:
        """Whether the runner may give its sandboxes and sessions users of their own: it is root."""
        ...

    def trouble(self) -> str | None:
        """Why it does not work on this machine, for this user; None: it does. Tries it out."""
        ...

    def enter(self, sandbox: Sandbox) -> None:
        """Called by the launcher. Returns in the process, of its descendants, that is to execute the sandbox's
        program; the launcher itself waits for it and exits with its status. Raises OSError."""
        ...

    def enter_session(self, place: SessionPlace) -> None:
        """Called in a child of the fork server. Returns in the process that is to be the parent of all of the
        session's; the others have ended. Its folders HOME and TMPDIR are there. Raises OSError."""
        ...

    def end_session(self) -> None:
        """Called in the process that `enter_session` returned in, before it ends: when that has ended, no process of
        the session is left."""
        ...

    def confine(self, place: SessionPlace, ports: list[int]) -> None:
        """Called in the process that is to run the user's code, before it does. `ports`: on the loopback, those that
        it may connect to where it has none of its own. Raises OSError."""
        ...

    def confine_build(self, sandbox: Sandbox, ports: list[int]) -> None:
        """The same for a build, in the process that is to execute its program."""
        ...
