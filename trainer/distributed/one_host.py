"""The rendezvous of ranks that are all on this host: a store on the loopback interface, and nobody to wait for.

Torch's own listens on all interfaces, and gives whoever connects what ranks tell one another before they trust it.
"""

from __future__ import annotations

import socket
from uuid import uuid4

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

HERE = "127.0.0.1"


class OneHost(RendezvousHandler):
    """One agent, which is complete as soon as it is there."""

    def __init__(self) -> None:
        self._run_id = uuid4().hex
        listener = socket.create_server((HERE, 0))
        port = listener.getsockname()[1]
        self._store = TCPStore(HERE, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
        self._info = RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(HERE, port))

    @property
    def use_agent_store(self) -> bool:
        """The ranks use this store, too."""
        return True

    def get_backend(self) -> str:
        """A name for torch's events."""
        return "one-host"

    def get_run_id(self) -> str:
        """Of this launch alone."""
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """At once."""
        return self._info

    def is_closed(self) -> bool:
        """There is no second one: nothing is restarted."""
        return False

    def set_closed(self) -> None:
        """Nobody else is there who had to know."""

    def num_nodes_waiting(self) -> int:
        """Nobody."""
        return 0

    def shutdown(self) -> bool:
        """The store ends with this process."""
        return True
