"""What a process says of itself once it is ready: in its log, in its row, in `headway status`, in metrics, on the
System page. Facts that a kind of process does not have are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self


def version_of(package: str) -> str:
    """Of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


LABELS = ("version", "architecture", "parameters", "dtype", "device", "kernel", "threads", "products")
"""Of the info metrics of trainers and samplers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """schema: the newest migration that it knows. kernel: of attention. products: what linear layers multiply in, on a
    CPU. lora_rank, lora_alpha: of a server, of forks that do not say else. lora_targets: the parts of these, or of a
    trainer, the layers of such forks. max_lora_rank: that a sampler loads. tokens_per_s: that are to be expected,
    trained by one model, or sampled by `tokens_per_s_of` answers at a time; `tokens_per_s_by`: how that was found.
    ranks: of a trainer, on what `device` says. pictures: how a base turns them into tokens (`PictureRule.to_json`),
    where it takes any. engine: what a server of another project that generates says of itself. stores: fingerprints of
    those that it uses, `checkpoints` and `blobs`."""

    version: str
    schema: str | None = None
    architecture: str | None = None
    num_parameters: int | None = None
    dtype: str | None = None
    device: str | None = None
    ranks: int | None = None
    kernel: str | None = None
    products: str | None = None
    threads: int | None = None
    context_length: int | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_targets: Sequence[str] = ()
    max_lora_rank: int | None = None
    tokens_per_s: float | None = None
    tokens_per_s_of: int | None = None
    tokens_per_s_by: str | None = None
    pictures: Mapping[str, Any] | None = None
    engine: str | None = None
    database: str | None = None
    checkpoint_store: str | None = None
    workers: int | None = None
    isolation: str | None = None
    slots: int | None = None
    stores: Mapping[str, str] | None = None

    @classmethod
    def read(cls, details: Mapping[str, Any]) -> Self:
        """Of `to_json`, also of a process of another version."""
        known = {field.name for field in fields(cls)}
        facts: dict[str, Any] = {name: value for name, value in details.items() if name in known}
        facts.setdefault("version", "unknown")
        return cls(**facts)

    def to_json(self) -> dict[str, Any]:
        """The facts that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != ()}

    def labels(self) -> list[str]:
        """Values of LABELS; empty where a fact is missing."""
        base = (self.architecture, self.num_parameters, self.dtype, self.device)
        facts = (*base, self.kernel, self.threads, self.products)
        return [self.version, *("" if fact is None else str(fact) for fact in facts)]

    def sentence(self) -> str:
        """All of it on one line, for people."""
        return "; ".join(filter(None, (self._model(), self._lora(), self._speed(), self._service(), self._version())))

    def _model(self) -> str:
        parameters = f"{_short(self.num_parameters)} parameters" if self.num_parameters else None
        where = " on ".join(filter(None, (self.dtype, self.device)))
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}" if self.threads else None
        products = f"products in {self.products}" if self.products else None
        kernel = f"{self.kernel} attention" if self.kernel else None
        context = f"context of {self.context_length} tokens" if self.context_length else None
        pictures = "with pictures" if self.pictures else None
        return _listed(self.architecture, parameters, where, threads, products, kernel, context, pictures)

    def _lora(self) -> str:
        shape = f"of rank {self.lora_rank}, alpha {self.lora_alpha}" if self.lora_rank else None
        limit = f"up to rank {self.max_lora_rank}" if self.max_lora_rank else None
        layers = f"on {', '.join(self.lora_targets)}" if self.lora_targets else None
        said = " ".join(filter(None, (shape, limit, layers)))
        return f"LoRA {said}" if said else ""

    def _speed(self) -> str:
        if self.tokens_per_s is None:
            return ""
        what = f"sampled by {self.tokens_per_s_of} answers at a time" if self.tokens_per_s_of else "trained"
        return f"about {_short(self.tokens_per_s)} tokens/s {what} ({self.tokens_per_s_by})"

    def _service(self) -> str:
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}" if self.workers else None
        store = f"checkpoints in {self.checkpoint_store}" if self.checkpoint_store else None
        isolation = f"isolation by {self.isolation}" if self.isolation else None
        slots = f"{self.slots} slot{'' if self.slots == 1 else 's'}" if self.slots else None
        return _listed(self.database, store, workers, isolation, slots)

    def _version(self) -> str:
        return _listed(self.engine, f"Headway {self.version}")


def store_fingerprint(url: str) -> str:
    """Tells stores apart for whoever may not see folders and buckets. Where copies of it lie is left out."""
    return hashlib.sha256(url.partition("?")[0].rstrip("/").encode()).hexdigest()[:12]


def _listed(*parts: str | None) -> str:
    return ", ".join(filter(None, parts))


def _short(value: float) -> str:
    """Three digits: 185, 1.24 k, 134 M."""
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


_UNITS: Iterable[tuple[float, str]] = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
