"""What a running `headway up` with vLLM holds: memory of each process, open files, adapters, checkpoint folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
_MARKS = {
    "server": "cli server ",
    "trainer": "cli trainer ",
    "sampler": "cli sampler ",
    "vllm-http": "backends/vllm/launch.py ",
    "vllm-engine": "VLLM::EngineCore",
    "vllm-worker": "VLLM::Worker",
}
"""A process is of the first kind whose mark is in its command line; an engine on one GPU has no worker of its own."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """At one moment. `rss_mib` and `open_files` by kind of process; `adapters_in_vllm` are the names it has registered,
    the base's zero adapter among them; `adapter_folders` hold the links that it reads."""

    promotions: int
    rss_mib: dict[str, int] = field(default_factory=dict[str, int])
    open_files: dict[str, int] = field(default_factory=dict[str, int])
    adapters_in_vllm: int = 0
    adapter_folders: int = 0
    checkpoints: int = 0
    optimizer_states: int = 0
    staging: int = 0


def take_footprint(up: int, vllm_url: str, checkpoints: Path, promotions: int) -> Footprint:
    """Of the `headway up` with this process id, which keeps its checkpoints there."""
    kinds, adapters = dict(_processes(up)), adapters_in(vllm_url)
    stored = [path for path in checkpoints.glob("*/*") if path.parent.name != ".staging"]
    return Footprint(
        promotions,
        rss_mib={kind: _rss_mib(pid) for kind, pid in kinds.items()},
        open_files={kind: len(os.listdir(f"/proc/{pid}/fd")) for kind, pid in kinds.items()},
        adapters_in_vllm=len(adapters),
        adapter_folders=sum(1 for _ in next(iter(adapters.values())).parent.iterdir()),
        checkpoints=len(stored),
        optimizer_states=sum(any((path / "state").glob("*")) for path in stored),
        staging=sum(1 for _ in (checkpoints / ".staging").glob("*")),
    )


def vllm_of(up: int) -> str:
    """URL of the vLLM that a sampler of this `headway up` started."""
    pid = next(pid for kind, pid in _processes(up) if kind == "vllm-http")
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return f"http://127.0.0.1:{words[words.index('--port') + 1]}"


def adapters_in(vllm_url: str) -> dict[str, Path]:
    """The adapters that a vLLM has registered for `headway sampler`, by name, and the folder of each."""
    models: list[dict[str, Any]] = httpx.get(f"{vllm_url}/v1/models", timeout=60, trust_env=False).json()["data"]
    return {model["id"]: Path(model["root"]) for model in models if str(model["id"]).startswith("hw-")}


def _processes(ancestor: int) -> Iterator[tuple[str, int]]:
    for pid in _descendants(ancestor):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") + " "
        except OSError:
            continue  # it has ended
        kind = next((kind for kind, mark in _MARKS.items() if mark in command), None)
        if kind is not None:
            yield kind, pid


def _descendants(ancestor: int) -> list[int]:
    parents = {int(entry): _parent(entry) for entry in os.listdir("/proc") if entry.isdecimal()}
    found = [ancestor]
    for pid in found:  # grows as it goes
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _rss_mib(pid: int) -> int:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB)
