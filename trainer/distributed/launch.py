"""A group of ranks on this host: torchrun's elastic agent in this process, which restarts nothing.

A group that has lost a rank cannot go on, and one that is started anew replays what the log holds: restarts are up to
whoever started this process. Each rank is the command line of this process again, with its rank in the environment.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import structlog
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SubprocessContext

from trainer.distributed.last_words import last_words
from trainer.distributed.one_host import HERE, OneHost
from trainer.distributed.world import LAUNCHER_PID
from wire.process.lifeline import VARIABLE as LIFELINE

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.1


def launch(num_ranks: int, grace_s: float, command: Sequence[str] | None = None) -> None:
    """Run the ranks until all have ended: by themselves, for a signal, which is passed on to them, or because one has
    failed. grace_s: after SIGTERM, until those that stay are killed. command: of a rank; None for that of this process.

    Raises ChildProcessError with which rank failed, and how.
    """
    _prepare_environment()
    spec = _spec(num_ranks, command or [sys.executable, *sys.orig_argv[1:]])
    folder = Path(tempfile.gettempdir()) / f"headway-ranks-{uuid4().hex}"  # made by a rank that has last words
    agent = _Agent(spec, round(grace_s), folder)
    is_stopped = False
    try:
        agent.run()
    except SignalException as received:
        is_stopped = True
        log.info("ranks_stopped", signal=received.sigval.name)
    failure = agent.failure(is_stopped=is_stopped)
    shutil.rmtree(folder, ignore_errors=True)
    if failure:
        raise ChildProcessError(failure)


def _prepare_environment() -> None:
    """Of the ranks, and of the agent's own log."""
    os.environ.pop(LIFELINE, None)  # stdin is this process's; the kernel says to the ranks when it dies
    os.environ[LAUNCHER_PID] = str(os.getpid())
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whoever can connect to gloo can take part
    agents_log = logging.getLogger("torch.distributed.elastic")  # says at length what `failure` says
    agents_log.addHandler(logging.NullHandler())
    agents_log.propagate = False


def _spec(num_ranks: int, command: Sequence[str]) -> WorkerSpec:
    return WorkerSpec(
        role="trainer",
        local_world_size=num_ranks,
        rdzv_handler=OneHost(),
        entrypoint=command[0],
        args=tuple(command[1:]),
        max_restarts=0,
        monitor_interval=_LOOK_EVERY_S,
        local_addr=HERE,
    )


class _Agent(LocalElasticAgent):
    """Ends the group once a rank has failed, or rank 0 has ended: SIGTERM, and SIGKILL to those that stay."""

    def __init__(self, spec: WorkerSpec, grace_s: int, folder: Path) -> None:
        self._grace_s = grace_s
        self._folder = folder
        self._first_ended: Mapping[int, int] = {}
        super().__init__(spec, _Logs(folder), shutdown_timeout=grace_s)

    def failure(self, *, is_stopped: bool) -> str | None:
        """Which rank failed first, and how; where all were asked to stop, rank 0 alone counts."""
        of = self._first_ended if any(self._first_ended.values()) else self._ended()
        failed = {rank: status for rank, status in of.items() if status and not (is_stopped and rank)}
        if not failed:
            return None
        # One that was killed is the cause, and others that ended in the same moment saw that it was gone.
        rank = min(failed, key=lambda rank: (failed[rank] > 0, rank))
        if failed[rank] < 0:
            return f"rank {rank} of {self._size} was killed by {signal.Signals(-failed[rank]).name}; the others ended"
        words = last_words(self._folder / str(rank)) or "its log says more"
        return f"rank {rank} of {self._size} ended with status {failed[rank]}: {words}"

    @property
    def _size(self) -> int:
        return self.get_worker_group().spec.local_world_size

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:  # type: ignore[override]
        ended = self._ended()
        if not self._first_ended and (0 in ended or any(ended.values())):
            self._first_ended = ended
            assert self._pcontext is not None
            self._pcontext.close(timeout=self._grace_s)  # torch would wait for 30 s
        return super()._monitor_workers(worker_group)  # type: ignore[call-arg]

    def _ended(self) -> dict[int, int]:
        """Exit statuses of the ranks that have ended; of one that a signal killed, its number, negative."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        polled = {rank: handler.proc.poll() for rank, handler in self._pcontext.subprocess_handlers.items()}
        return {rank: status for rank, status in polled.items() if status is not None}


class _Logs(LogsSpecs):
    """Ranks write to the standard error of this process, and their last words into files of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def root_log_dir(self) -> str:
        """Where the files are."""
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """The destinations of each local rank's output; empty for this process's own."""
        files = {rank: str(self._folder / str(rank)) for rank in envs}
        for rank, environment in envs.items():
            environment["TORCHELASTIC_ERROR_FILE"] = files[rank]
        own = dict.fromkeys(envs, "")
        return LogsDest(stdouts=own, stderrs=own, error_files=files)
