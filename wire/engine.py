"""The port between the trainer's worker, which works off the op log, and its engine, which computes in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from wire.datums import Datum
from wire.lora import LORA_PARTS, LoraConfig
from wire.plans import Plan, PlanSettings, StepPlan
from wire.trajectories import Float32Array

Pictures: TypeAlias = Mapping[bytes, bytes]
"""Canonical PNGs by their SHA-256, which is what the media of a model input name them by."""

NO_PICTURES: Pictures = {}


@dataclass(frozen=True, slots=True)
class LossChoice:
    """A built-in loss by name, with the hyperparameters that the caller set (the others take their defaults)."""

    name: str
    config: Mapping[str, float] = field(default_factory=dict[str, float])
    num_substeps: int = 1


@dataclass(frozen=True, slots=True)
class AdamParams:
    """Parameters of one AdamW step; weight decay is decoupled. max_grad_norm: 0.0 clips nothing, None leaves it to
    the trainer."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one gradient pass did. Metric names are `name` or `name:reduction`.

    logprobs: of each datum, the policy's of every target as the loss saw it: float32 nats, of the shape of its targets.
    None where the engine does not return any.
    """

    metrics: dict[str, float]
    num_datums: int
    num_tokens: int  # scored positions with a weight
    logprobs: Sequence[Float32Array] | None = None


@dataclass(frozen=True, slots=True)
class DatumTensors:
    """One datum of a forward pass: float32 arrays over all positions of its model input, 0 where nothing is scored.
    Those of logprobs are rows of K where each position has K targets."""

    trajectory_index: int
    reward: float | None
    logprobs: Float32Array
    sampling_logprobs: Float32Array
    mask: Float32Array


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step did to the weights in memory."""

    metrics: dict[str, float]
    moved: bool  # False: the accumulated gradient was exactly zero, weights and moments are as before


@dataclass(frozen=True, slots=True)
class BaseModelInfo:
    """Facts of a base model that the control plane needs to judge requests. lora_layers: names (last components) of the
    linear layers that LoRA adapts, by part; parts without any are left out. pictures: how it turns them into tokens
    (`PictureRule.to_json`), None where it takes text alone."""

    vocab_size: int
    context_length: int
    architecture: str
    dtype: str
    num_parameters: int
    fingerprint: str = ""  # the same for the same weights, so that others under the same name are noticed
    sharing: str = "prefixes"  # or "nothing": each sequence is a pass of its own
    adapted_parts: Sequence[str] = LORA_PARTS  # of which LoRA leaves no layer out: not of fused experts
    lora_layers: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    pictures: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> BaseModelInfo:
        """As a trainer of any version wrote it: what only a later one knows is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in info.items() if name in known})


class Snapshot(Protocol):
    """A model's weights and moments as they were when it was taken, in host memory."""

    def write(self, adapter: Path, state: Path) -> None:
        """Write the adapter (PEFT layout) and the optimizer state into two existing empty folders, from any thread,
        while the engine goes on. Raises OSError if the disk refuses."""
        ...


class Engine(Protocol):
    """Holds weights, gradients and moments of many models on one base. Not thread-safe; calls never overlap.

    A refused call (HeadwayError) leaves weights, gradients and moments as they were. Passes are given the pictures that
    the datums' media name; others among them are ignored. Raises InvalidRequest for one that is missing.
    """

    @property
    def info(self) -> BaseModelInfo: ...

    @property
    def losses(self) -> Mapping[str, Mapping[str, float | None]]:
        """Every loss by name, with its hyperparameters and their defaults."""
        ...

    def open(self, model: UUID, lora: LoraConfig, adapter: Path | None, state: Path | None) -> None:
        """Make the model resident, replacing what was held: from a checkpoint's folders, or from the seeded start
        (adapter None). A missing state means fresh moments. Gradients start at zero."""
        ...

    def close(self, model: UUID) -> None:
        """Forget everything of this model. Unknown models are fine."""
        ...

    def holds(self, model: UUID) -> bool:
        """Whether the model is open and whole; if not, it has to be opened again. May take as long as reading it."""
        ...

    def plan(self, datums: Sequence[Datum], num_substeps: int = 1, settings: PlanSettings | None = None) -> Plan:
        """How passes over these datums are cut up, by these settings or the engine's own. A pass follows the plan that
        it is given, whatever the engine's settings are: equal plans give equal bits on equal devices."""
        ...

    def forward_backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """Add the loss's gradient to the model's accumulated gradient. plan: None for that of `plan`."""
        ...

    def forward(
        self, model: UUID, datums: Sequence[Datum], plan: Plan | None = None, pictures: Pictures = NO_PICTURES
    ) -> list[DatumTensors]:
        """Logprobs of the current policy, no gradient."""
        ...

    def evaluate(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """What `forward_backward` returns, without its gradient: the accumulated one stays as it is."""
        ...

    def backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        weights: Sequence[Float32Array],
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """Add the gradient of −Σ w·logprob, `weights` over all positions of each datum, as `forward` returned them."""
        ...

    def plan_step(self) -> StepPlan:
        """What of the engine's settings a step depends on."""
        ...

    def optim_step(self, model: UUID, adam: AdamParams, plan: StepPlan | None = None) -> StepResult:
        """Apply the accumulated gradient and clear it. plan: None for that of `plan_step`."""
        ...

    def snapshot(self, model: UUID) -> Snapshot:
        """What a checkpoint consists of now, to be written later. Raises NonFinite for weights that are of no use:
        every checkpoint goes through here before it is committed."""
        ...
