"""The first process of a sandbox: makes it, then executes its program in it.

Standard input is a socket, on which the sandbox's description comes; the program has it as its standard input, too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from runner.environments.inside import messages
from runner.environments.isolation import ISOLATIONS, kernel
from runner.environments.isolation.base import Sandbox


def main() -> None:
    """Executes; or ends with a sentence on stderr and status 1."""
    kernel.die_with_parent(signal.SIGKILL)
    control = socket.socket(fileno=os.dup(0))
    received = messages.receive(control)
    if received is None:
        sys.exit("the runner ended before it said what to start")
    sandbox = Sandbox.from_json(received.fields)
    try:
        isolation = ISOLATIONS[sandbox.isolation]
        isolation.enter(sandbox)
        if sandbox.is_build:
            isolation.confine_build(sandbox, [_offer_proxy(control, sandbox)])
        os.chdir(sandbox.folder)
        control.close()
        os.execve(sandbox.arguments[0], sandbox.arguments, sandbox.variables)  # noqa: S606
    except OSError as error:
        sys.exit(f"the sandbox cannot be made: {error}")


def _offer_proxy(control: socket.socket, sandbox: Sandbox) -> int:
    """A build reaches the package index through a proxy of the runner, which listens on this loopback; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        messages.send(control, {"listens": port}, [listener.fileno()])
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        sandbox.variables[name] = f"http://127.0.0.1:{port}"  # an address of this machine: nothing to bracket
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return port
