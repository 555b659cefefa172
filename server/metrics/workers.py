"""One answer to a scrape, whichever of the worker processes gets it.

Workers that share a port share a folder (PROMETHEUS_MULTIPROC_DIR), in which prometheus_client keeps what each has
counted; a scrape adds the files up. What a worker counted outlives it, what it measured at the moment does not.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LIVE_GAUGE = re.compile(r"gauge_live\w+_(\d+)\.db")


@contextmanager
def shared_counts() -> Generator[None]:
    """For the process that starts workers: they find the folder in their environment, before they import anything."""
    with tempfile.TemporaryDirectory(prefix="headway-metrics-") as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


def count_process(registry: CollectorRegistry) -> None:
    """Memory, processor time and files of this process, where it is the only one."""
    if _VARIABLE not in os.environ:
        ProcessCollector(registry=registry)


def exposition(registry: CollectorRegistry) -> bytes:
    """What all worker processes have counted, or this one if it is alone."""
    return generate_latest(_everybody(registry))


def families(registry: CollectorRegistry) -> Iterable[Metric]:
    """The same, to be read by this process."""
    return _everybody(registry).collect()


def _everybody(registry: CollectorRegistry) -> CollectorRegistry:
    folder = os.environ.get(_VARIABLE)
    if folder is None:
        return registry
    _forget_the_dead(Path(folder))
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody, folder)
    return everybody


def _forget_the_dead(folder: Path) -> None:
    for path in folder.glob("gauge_live*.db"):
        found = _LIVE_GAUGE.fullmatch(path.name)
        if found and not _lives(int(found[1])):
            mark_process_dead(int(found[1]), str(folder))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
