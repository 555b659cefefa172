"""The engine of this process, with its base: alone, or as one of the ranks that hold a base together."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.logging import set_tqdm_hook

from store.private_files import shared_umask
from trainer.distributed.group import RankGroup, start_group
from trainer.distributed.loading import load_sharded_base
from trainer.distributed.world import ALONE, World
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.device_memory import device_name, gpu_name
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.heap import Heap
from trainer.engine.products import NUM_KERNELS
from trainer.engine.ranks import Alone, Ranks, at_own_pace
from trainer.engine.throughput import tokens_per_s
from trainer.settings import TrainerSettings
from wire.process.hub_weights import fetch_weights, require_weights
from wire.process.loading_progress import logged_bar, no_bar
from wire.process.onednn import keep_few_kernels
from wire.process.product_dtype import ProductDtype
from wire.process.threads import threads_for, usable_cores


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process computes, and with whom. group: None for one that computes alone."""

    device: str
    group: RankGroup | None = None
    world: World = ALONE

    @classmethod
    def take(cls, settings: TrainerSettings, world: World | None) -> Place:
        """Waits for the other ranks, if there are any. Raises ValueError where there is no device for this one,
        DeviceLost where the others do not come."""
        num_gpus = torch.cuda.device_count()
        if world is None:
            return cls(("cuda" if num_gpus else "cpu") if settings.device == "auto" else settings.device)
        device = world.device(settings.device, num_gpus)
        return cls(device, start_group(device, settings.collective_limit_s), world)

    @property
    def ranks(self) -> Ranks:
        """Those that compute here together."""
        return self.group or Alone()


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """tokens_per_s: of all ranks together. devices: theirs, for people."""

    base: BaseModel
    engine: TrainingEngine
    threads: int
    tokens_per_s: float
    devices: str


def load_engine(
    settings: TrainerSettings,
    weights: str | None,
    place: Place,
    heap: Heap | None = None,
    before_micro_batch: Callable[[], None] = lambda: None,
) -> LoadedEngine:
    """All ranks load by the weights and settings of rank 0, and raise what one of them raises: OSError or ValueError
    for weights that do not load. weights: None where this is not rank 0."""
    keep_few_kernels(NUM_KERNELS)
    if place.device != "cpu":
        _equal_bits_for_equal_passes()
    set_tqdm_hook(logged_bar if place.world.local_rank == 0 else no_bar)
    base = _load_base(weights, settings.products, place)
    threads = settings.threads or threads_for(base.info.num_parameters, place.world.local_size)
    max_threads = settings.threads or max(threads, usable_cores() // place.world.local_size)
    of_engine: EngineSettings = place.ranks.gathered(_engine_settings(settings, threads, max_threads))[0]
    engine = TrainingEngine(base, of_engine, before_micro_batch=before_micro_batch, ranks=place.ranks, heap=heap)
    return LoadedEngine(base, engine, max_threads, tokens_per_s(base, place.ranks), _devices(base, place.ranks))


def _load_base(given: str | None, wanted: ProductDtype, place: Place) -> BaseModel:
    weights, products = place.ranks.gathered((given, wanted))[0]
    assert weights is not None
    with shared_umask():
        with at_own_pace(place.ranks):
            require_weights(weights)
            if place.world.local_rank == 0:  # for its host
                fetch_weights(weights)
        if place.group is None:
            return load_base_model(weights, device=place.device, products=products)
        with place.group.agreed():
            shared: dict[str, Any] = {"device": place.device, "products": products}
            return load_sharded_base(weights, ranks=place.group, on_host=place.world.local_size, **shared)


def _engine_settings(settings: TrainerSettings, threads: int, max_threads: int) -> EngineSettings:
    return EngineSettings(
        max_tokens_per_pass=settings.max_tokens_per_pass,
        min_shard_tokens=settings.min_shard_tokens,
        max_activation_bytes=_bytes(settings.max_activation_gib),
        max_feature_bytes=int(settings.max_feature_gib * 2**30),
        threads=threads,
        max_threads=max_threads,
        max_grad_norm=settings.max_grad_norm,
        canary=settings.canary,
        max_resident_bytes=_bytes(settings.max_resident_gib),
    )


def _equal_bits_for_equal_passes() -> None:
    """Sums by atomics come out in the order in which threads arrive; slower kernels keep to one order."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _devices(base: BaseModel, ranks: Ranks) -> str:
    """`cuda:0 (NVIDIA H200)`, `4 GPUs (NVIDIA H200)`, `16 GPUs (NVIDIA H200) of 2 hosts`, `2 CPU ranks`."""
    if ranks.size == 1:
        return device_name(base.device)
    found = ranks.gathered((socket.gethostname(), gpu_name(base.device)))
    names, num_hosts = Counter(name for _, name in found if name), len({host for host, _ in found})
    what = f"{ranks.size} GPUs ({', '.join(names)})" if names else f"{ranks.size} CPU ranks"
    return f"{what} of {num_hosts} hosts" if num_hosts > 1 else what
