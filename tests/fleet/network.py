"""Simulated hosts on one machine: a network namespace each, joined by a bridge, with links that can be cut.

The bridge has a namespace of its own, so nothing of this machine's network changes. Packets are dropped where they
arrive, without a word to the sender. Needs root; `tests.fleet.commands.missing` says what else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fleet import delay
from tests.fleet.clock import Clock
from tests.fleet.commands import run
from tests.fleet.process import REPOSITORY, Process, Surroundings

_NETWORK = "10.77.0"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """Made by `Network.host`. clock_offset_s: how far its clock is ahead of this machine's, for processes that start
    while it is a number, and for as long as they run; None: they have this machine's clock, and it is too late to set
    another. `monotonic` is right whatever the clock says."""

    def __init__(self, name: str, address: str, namespace: str, folder: Path) -> None:
        self.name, self.address, self.namespace, self.folder = name, address, namespace, folder
        self.link = f"host{address.rpartition('.')[2]}"
        self.processes: list[Process] = []
        self._clock_offset_s: float | None = None
        self._clock = Clock(folder)

    @property
    def clock_offset_s(self) -> float | None:
        return self._clock_offset_s

    @clock_offset_s.setter
    def clock_offset_s(self, offset_s: float | None) -> None:
        is_late = self._clock_offset_s is None and any(process.poll() is None for process in self.processes)
        assert not is_late, f"processes of {self.name} were started with this machine's clock"
        self._clock_offset_s = offset_s
        self._clock.set(offset_s or 0.0)

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        mounts: Mapping[str, Path] | None = None,
        uid: int = 0,
        cwd: str = "/",
        log: Path | None = None,
        read_only: bool = False,
    ) -> Process:
        """env: all that it has, but PATH. mounts: the host's folders and files by the path where the process has them;
        /etc/hosts names all hosts unless it is among them. read_only: every other path refuses to be written."""
        has_clock = self._clock_offset_s is not None
        own = {"/etc/hosts": self.folder.parent / "hosts", **(self._clock.mounts if has_clock else {})}
        around = Surroundings(self.namespace, {**own, **(mounts or {})}, uid, cwd, read_only)
        preload = self._clock.environment if has_clock else {}
        process = Process(argv, env, around, log or self.folder / "log", preload)
        self.processes.append(process)
        return process

    def start_again(self, ended: Process) -> Process:
        """What it was started with, in surroundings made anew."""
        self.processes.append(ended.again())
        return self.processes[-1]

    @contextmanager
    def inside(self) -> Generator[None]:
        """Sockets that this thread opens meanwhile are this host's, also when they are used later or elsewhere."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.namespace}") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


class Network:
    """A context manager; everything that runs on its hosts is killed at the end."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:6]
        self._switch = f"headway-{self._id}"
        self._hosts: dict[str, Host] = {}
        self._making = threading.Lock()
        self._away: set[str] = set()
        self._delays: list[subprocess.Popen[str]] = []
        self.folder = Path()

    def __enter__(self) -> Network:
        self.folder = Path(tempfile.mkdtemp(prefix="headway-network-"))
        self.folder.chmod(0o755)
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n")
        run("ip", "netns", "add", self._switch)
        self._ip(self._switch, "link", "add", "bridge", "type", "bridge")
        self._ip(self._switch, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._end_delays()
        for host in self._present():
            self.end(host)
        for namespace in (*(host.namespace for host in self._present()), self._switch):
            run("ip", "netns", "delete", namespace)
        shutil.rmtree(self.folder, ignore_errors=True)

    def host(self, name: str) -> Host:
        """The host of this name, which other hosts know by it; made when first asked for."""
        with self._making:
            if name not in self._hosts:
                self._hosts[name] = self._make(name, len(self._hosts) + 1)
            return self._hosts[name]

    def cut(self, a: Host, b: Host) -> None:
        """From now on no packet between them arrives."""
        self._drop(a, b)
        self._drop(b, a)

    def lose(self, a: Host, b: Host, share: float) -> None:
        """That share of packets between them does not arrive."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", str(share))
        self._drop(a, b, *chance)
        self._drop(b, a, *chance)

    def delay(self, a: Host, b: Host, s: float) -> None:
        """Packets from a to b take s seconds longer, also those of connections that are open already. Once for a host
        until `heal`."""
        self.delay_to(a, [b], s)

    def delay_to(self, a: Host, others: Sequence[Host], s: float) -> None:
        """As `delay`, to several hosts."""
        module = (sys.executable, "-m", delay.__name__, str(s), a.address, *(other.address for other in others))
        process = subprocess.Popen(
            ("nsenter", f"--net=/run/netns/{a.namespace}", *module),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=(a.folder / "delay.log").open("ab"),
            text=True,
        )
        self._delays.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == delay.READY, (a.folder / "delay.log").read_text()

    def heal(self) -> None:
        """All packets arrive again, and at once. Hosts that vanished stay away."""
        self._end_delays()
        for host in self._present():
            self._iptables(host, "-F", "INPUT")

    def dropped(self, host: Host) -> int:
        """How many packets to this host did not arrive since its links were made or healed."""
        rows = run("ip", "netns", "exec", host.namespace, "iptables", "-w", "-nvxL", "INPUT").splitlines()[2:]
        return sum(int(row.split()[0]) for row in rows)

    def vanish(self, host: Host) -> list[Process]:
        """Its link goes down, its processes die, and its kernel forgets its connections: nobody hears that one has
        ended. What ran there."""
        ran = list(host.processes)
        self._ip(self._switch, "link", "delete", host.link)
        self.end(host)
        run("ip", "netns", "delete", host.namespace)
        self._away.add(host.name)
        return ran

    def revive(self, host: Host) -> None:
        """A host that vanished is back under its name and address, as after a start of the machine: it runs
        nothing, and whatever held for its links holds no more on its side."""
        self._away.remove(host.name)
        self._connect(host)

    def end(self, host: Host) -> None:
        """SIGKILL for every process in the host's network, also those that processes there have started."""
        while pids := run("ip", "netns", "pids", host.namespace).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            for process in host.processes:
                process.kill()
        for process in host.processes:
            process.kill()
        host.processes.clear()

    def _present(self) -> list[Host]:
        return [host for host in self._hosts.values() if host.name not in self._away]

    def _make(self, name: str, number: int) -> Host:
        host = Host(name, f"{_NETWORK}.{number}", f"{self._switch}-{number}", self.folder / name)
        host.folder.mkdir()
        host.folder.chmod(0o755)
        self._connect(host)
        with (self.folder / "hosts").open("a") as file:
            file.write(f"{host.address} {name}\n")
        return host

    def _connect(self, host: Host) -> None:
        """The hardware address goes with the number, since others remember it. One segment a packet: otherwise 64 KiB
        would be lost, or arrive, at once."""
        run("ip", "netns", "add", host.namespace)
        peer = ("type", "veth", "peer", "name", host.link, "netns", self._switch)
        hardware = f"02:00:00:00:00:{int(host.link.removeprefix('host')):02x}"
        self._ip(host.namespace, "link", "add", "eth0", "address", hardware, *peer)
        self._ip(self._switch, "link", "set", host.link, "master", "bridge", "up")
        self._ip(host.namespace, "link", "set", "eth0", "gso_max_segs", "1")
        self._ip(host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip(host.namespace, "link", "set", device, "up")
        self._accept_detours(host)

    def _accept_detours(self, host: Host) -> None:
        """Answers come by eth0 from hosts to which packets leave by another device, while they are delayed."""
        for device in ("all", "eth0"):
            path = f"/proc/sys/net/ipv4/conf/{device}/rp_filter"
            run("ip", "netns", "exec", host.namespace, "sh", "-c", f"echo 0 > {path}")

    def _drop(self, at: Host, sender: Host, *matching: str) -> None:
        self._iptables(at, "-A", "INPUT", "-s", sender.address, *matching, "-j", "DROP")

    def _iptables(self, host: Host, *words: str) -> None:
        run("ip", "netns", "exec", host.namespace, "iptables", "-w", *words)

    def _ip(self, namespace: str, *words: str) -> None:
        run("ip", "-n", namespace, *words)

    def _end_delays(self) -> None:
        for process in self._delays:
            process.kill()
            process.wait()
        self._delays.clear()


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
