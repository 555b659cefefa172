"""A child process that answers over a socket: started when it is first needed, ended by its owner, replaced when lost.

The child runs a module of ours with its end of the socket as standard input. It ends when the owner's end closes,
however the owner ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from multiprocessing.connection import Connection


class ConnectedChild:
    """One child at most. `connected` and `forget` belong to one thread; `kill` and `close` may be called from any."""

    def __init__(
        self,
        module: str,
        withheld: Collection[str],
        variables: Mapping[str, str],
        greet: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """`withheld`: prefixes of environment variables that the child does not get. `greet`: called with each new
        child's connection before it is used; may raise OSError."""
        self._module = module
        self._withheld = tuple(withheld)
        self._variables = dict(variables)
        self._greet = greet
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, once there is one."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called: no child answers any more."""
        return self._is_closed

    def connected(self) -> Connection:
        """The child's connection; starts a child if there is none. Raises OSError."""
        if self._connection is None:
            ours, theirs = socket.socketpair()
            with theirs:
                connection = self._connection = Connection(ours.detach())
                command = [sys.executable, "-P", "-m", self._module]
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), env=self._environment(), start_new_session=True
                )
            if self._is_closed:  # too early for `close` to see it
                self._process.kill()
            self._greet(connection)
        return self._connection

    def kill(self) -> None:
        """End the process, whatever it does. Whoever waits for its answer gets EOFError."""
        process = self._process  # the owner's thread may forget it meanwhile
        if process is not None:
            process.kill()

    def close(self) -> None:
        """`kill`, for good. `forget` when nothing uses the connection any more."""
        self._is_closed = True
        self.kill()

    def forget(self) -> None:
        """End the process; `connected` starts another."""
        process, connection, self._process, self._connection = self._process, self._connection, None, None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()

    def _environment(self) -> dict[str, str]:
        """It finds our modules where this process finds them, whatever lies in the working directory."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(self._withheld)}
        return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **self._variables}
