"""How the weights of a step travel from the trainer to a sampler: by file, by shared memory, by an object store.

An adapter as large as one of rank 32 on all linear layers of a 4B Qwen3 (132 MB of bfloat16, PEFT's layout) is written,
published, fetched (which verifies it) and read back as tensors, through each store in turn, round after round. "settle"
is what the disk takes; samplers load meanwhile, and the step is committed after both. The object store is moto's
server on this machine, in Python, and by far the slowest thing here; "cpu" is this process alone, all four parts.

    python -m bench.weights_transport [--rounds 7] [--idle] [--no-s3]

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.clock import say
from bench.figures import write_figures
from store.checkpoint_stores import CheckpointStore, open_checkpoint_store
from store.checkpoint_stores.file import FileCheckpointStore
from tests.object_store import object_store

_MODEL = uuid.uuid4()
_WEIGHTS = "adapter_model.safetensors"
_RANK, _LAYERS = 32, 36
_LINEARS = {  # (inputs, outputs) in Qwen3-4B
    "self_attn.q_proj": (2560, 4096),
    "self_attn.k_proj": (2560, 1024),
    "self_attn.v_proj": (2560, 1024),
    "self_attn.o_proj": (4096, 2560),
    "mlp.gate_proj": (2560, 9728),
    "mlp.up_proj": (2560, 9728),
    "mlp.down_proj": (9728, 2560),
}
PARTS = ("write", "publish", "fetch", "read")


@dataclass(frozen=True)
class Transport:
    """A store as the trainer opens it, and as a sampler does, anew for each checkpoint."""

    trainer: CheckpointStore
    sampler: Callable[[], CheckpointStore]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--idle", action="store_true", help="say in the results that nothing else ran")
    parser.add_argument("--no-s3", action="store_true", help="files and shared memory alone, which is quick")
    options = parser.parse_args()
    tensors = _adapter()
    with _transports(with_s3=not options.no_s3) as transports:
        for name, transport in transports.items():  # connections, page tables
            _promote(transport, tensors)
            say(f"  warmed {name}")
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in transports}
        for index in range(options.rounds):
            for name in list(transports)[:: 1 if index % 2 == 0 else -1]:
                rounds[name].append(_promote(transports[name], tensors))
                say(f"  round {index + 1}/{options.rounds} {name}: {_total(rounds[name][-1]):.2f} s")
    _report(rounds, options.idle, sum(t.numel() * t.element_size() for t in tensors.values()))


def _adapter() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(_LAYERS):
        for linear, (inputs, outputs) in _LINEARS.items():
            name = f"base_model.model.model.layers.{layer}.{linear}"
            for side, shape in (("lora_A", (_RANK, inputs)), ("lora_B", (outputs, _RANK))):
                tensors[f"{name}.{side}.weight"] = torch.randn(shape, generator=generator).to(torch.bfloat16)
    return tensors


@contextmanager
def _transports(*, with_s3: bool) -> Iterator[dict[str, Transport]]:
    with ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-bench-")))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-bench-", dir="/dev/shm")))
        transports = {
            "file": _of_files(disk / "checkpoints"),
            "shared memory": _of_files(memory / "checkpoints"),
        }
        if not with_s3:
            yield transports
            return
        s3 = stack.enter_context(object_store(disk / "s3.log"))
        here = s3.url(disk / "copies", "bench")
        yield transports | {
            "s3, same machine": Transport(open_checkpoint_store(here), lambda: open_checkpoint_store(here)),
            "s3, other machine": Transport(
                open_checkpoint_store(here), lambda: open_checkpoint_store(s3.url(_empty(disk / "others"), "bench"))
            ),
        }


def _of_files(root: Path) -> Transport:
    return Transport(FileCheckpointStore(root), lambda: FileCheckpointStore(root))


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _promote(transport: Transport, tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Seconds of each part, of `settle`, and of the CPU for all parts."""
    checkpoint, sampler, cpu_before = uuid.uuid4(), transport.sampler(), time.process_time()
    seconds: dict[str, float] = {}
    with transport.trainer.stage(_MODEL, checkpoint) as staged:
        with _timed(seconds, "write"):
            save_file(dict(tensors), staged / "adapter" / _WEIGHTS)
        with _timed(seconds, "publish"):
            transport.trainer.publish(_MODEL, checkpoint, staged)
    with _timed(seconds, "fetch"):
        files = sampler.fetch(_MODEL, checkpoint, state=False)
    with _timed(seconds, "read"):
        read = load_file(files.adapter / _WEIGHTS)
    assert read.keys() == tensors.keys()
    seconds["cpu"] = time.process_time() - cpu_before
    with _timed(seconds, "settle"):
        transport.trainer.settle(_MODEL, checkpoint)
    del read
    sampler.release(_MODEL, checkpoint)
    transport.trainer.remove(_MODEL, checkpoint)
    return seconds


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _total(seconds: Mapping[str, float]) -> float:
    return sum(seconds[part] for part in PARTS)


def _report(rounds: Mapping[str, list[dict[str, float]]], idle: bool, num_bytes: int) -> None:
    columns = (*PARTS, "total", "cpu", "settle")
    print(f"{'ms (median)':20}" + "".join(f"{column:>10}" for column in columns) + f"{'of file':>10}")
    figures: dict[str, dict[str, float]] = {}
    for name, each in rounds.items():
        figures[name] = {part: 1e3 * statistics.median(seconds[part] for seconds in each) for part in each[0]}
        figures[name]["total"] = 1e3 * statistics.median(map(_total, each))
        pairs = zip(each, rounds["file"], strict=True)
        figures[name]["of_file"] = statistics.median(_total(own) / _total(file) for own, file in pairs)
        line = "".join(f"{figures[name][column]:10.0f}" for column in columns)
        print(f"{name:20}{line}{figures[name]['of_file']:10.2f}")
    rounded = {name: {part: round(value, 2) for part, value in row.items()} for name, row in figures.items()}
    facts = {"idle": idle, "rounds": len(rounds["file"]), "bytes": num_bytes}
    write_figures("weights_transport", {**facts, "median_ms": rounded})


if __name__ == "__main__":
    main()
