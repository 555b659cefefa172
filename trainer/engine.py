"""The training engine: weights, gradients and moments of many models on one base.

A pass turns trajectories into datums and packs those into micro-batches. Each is scored under the model's weights;
the loss, or the client, says what a unit of each token's logprob is worth; those weights go back through the model
into a scratch gradient. Only a pass that came to its end adds the scratch to the model's gradient, so a refusal at
any point leaves nothing behind.
"""

# N action tokens of a micro-batch

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import torch

from trainer.advantages import advantages
from trainer.base_model import BaseModel
from trainer.batch import Datum, datum_tensors, to_datums
from trainer.checkpoint import load_session, save_adapter, save_state
from trainer.losses import LOSSES, make_loss
from trainer.metrics import PassTally
from trainer.objective import BuiltinObjective, ClientObjective, Objective
from trainer.optim import adamw_step
from trainer.packing import build_pack, plan_micro_batches
from trainer.scores import Scores, refuse_broken_policy, refuse_overflow
from trainer.session import Session
from trainer.validation import check_batch, check_lora, check_num_substeps, check_weights
from wire.engine import AdamParams, BaseModelInfo, DatumTensors, LoraConfig, LossChoice, PassResult, StepResult
from wire.errors import NotFound
from wire.trajectories import Batch, Float32Array


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """max_tokens_per_pass bounds activation memory; it and threads decide GEMM shapes, hence the last bits.

    threads: of torch, None for its default. max_grad_norm: clip the accumulated gradient to this 2-norm; off by
    default, for no client asked for it.
    """

    max_tokens_per_pass: int = 16384
    threads: int | None = None
    max_grad_norm: float | None = None


class TrainingEngine:
    """`wire.engine.Engine` in torch."""

    def __init__(
        self, base: BaseModel, settings: EngineSettings | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._base = base
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._sessions: dict[UUID, Session] = {}
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)

    @property
    def info(self) -> BaseModelInfo:
        """Facts of the base model."""
        return self._base.info

    @property
    def losses(self) -> Mapping[str, Mapping[str, float | None]]:
        """Every loss by name, with its hyperparameters and their defaults (None: a shorthand, unset)."""
        return {name: loss.defaults() for name, loss in LOSSES.items()}

    def open(self, model: UUID, lora: LoraConfig, adapter: Path | None, state: Path | None) -> None:
        """Make a model resident. Raises CorruptCheckpoint, and keeps what was held, if its files do not fit."""
        check_lora(lora)
        layout = self._base.adapter(lora).layout
        self._sessions[model] = load_session(lora, layout, adapter, state, self._base.dtype, self._base.device)

    def close(self, model: UUID) -> None:
        """Forget everything of this model."""
        self._sessions.pop(model, None)

    def forward_backward(self, model: UUID, batch: Batch, loss: LossChoice) -> PassResult:
        """Add the gradient of a built-in loss, summed over the batch's action tokens."""
        built_in = make_loss(loss)
        check_num_substeps(loss.num_substeps)
        check_batch(batch, self.info, sampling_logprobs_optional=built_in.sampling_logprobs_optional)
        datums = to_datums(batch.trajectories)
        objective = BuiltinObjective(built_in, advantages(batch))
        return self._gradient_pass(model, batch, datums, objective, loss.num_substeps)

    def forward(self, model: UUID, batch: Batch) -> list[DatumTensors]:
        """Logprobs of the current policy, with the packs and thus the bits that `backward` will see."""
        check_batch(batch, self.info, sampling_logprobs_optional=True)
        self._base.bind(self._session(model))
        datums = to_datums(batch.trajectories)
        with torch.no_grad():
            scored = [self._score(micro_batch) for micro_batch in self._plan(batch, datums, num_substeps=1)]
        return [tensors for scores in scored for tensors in _datum_tensors(scores, batch)]

    def backward(self, model: UUID, batch: Batch, weights: Sequence[Float32Array]) -> PassResult:
        """Add the gradient of −Σ w · logprob; weights of positions without an action are ignored."""
        check_batch(batch, self.info, sampling_logprobs_optional=True)
        datums = to_datums(batch.trajectories)
        check_weights(datums, weights)
        return self._gradient_pass(model, batch, datums, ClientObjective(datums, weights), num_substeps=1)

    def optim_step(self, model: UUID, adam: AdamParams) -> StepResult:
        """Apply the accumulated gradient by AdamW and clear it."""
        started = self._clock()
        result = adamw_step(self._session(model), adam, self._settings.max_grad_norm)
        return StepResult({**result.metrics, "seconds": self._clock() - started}, result.moved)

    def save(self, model: UUID, adapter: Path, state: Path) -> None:
        """Write the adapter as samplers load it, and the state as training goes on from it."""
        session = self._session(model)
        live = self._base.adapter(session.lora)
        save_adapter(session, live, self._base.name, self._base.served_dtype, adapter)
        save_state(session, state)

    def _gradient_pass(
        self, model: UUID, batch: Batch, datums: list[Datum], objective: Objective, num_substeps: int
    ) -> PassResult:
        started, tally = self._clock(), PassTally()
        with self._all_or_none(self._session(model)) as gradient:
            for micro_batch in self._plan(batch, datums, num_substeps):
                scores = self._score(micro_batch)
                weighted = objective(scores)
                scores.backpropagate(weighted.weights_N)
                refuse_overflow(gradient, micro_batch)
                tally.add(scores, weighted)
        return tally.result(batch, len(datums), self._clock() - started, self._shape_settings())

    def _shape_settings(self) -> dict[str, float]:
        """What decided the GEMM shapes, beside the batch itself: a replay needs the same."""
        return {"max_tokens_per_pass": self._settings.max_tokens_per_pass, "threads": torch.get_num_threads()}

    @contextmanager
    def _all_or_none(self, session: Session) -> Generator[torch.Tensor]:
        """The scratch that backward passes fill; it counts only if the block comes to its end."""
        scratch = self._base.bind(session).scratch_gradient
        scratch.zero_()
        yield scratch
        session.add_gradient(scratch)

    def _plan(self, batch: Batch, datums: list[Datum], num_substeps: int) -> list[list[Datum]]:
        return plan_micro_batches(
            datums,
            group_size=batch.group_size or len(batch.trajectories),
            num_substeps=num_substeps,
            max_tokens=self._settings.max_tokens_per_pass,
        )

    def _score(self, micro_batch: list[Datum]) -> Scores:
        pack = build_pack(micro_batch, self._base.device)
        scores = Scores.of(pack, *self._base.logprobs(pack))
        refuse_broken_policy(scores)
        return scores

    def _session(self, model: UUID) -> Session:
        if model not in self._sessions:
            raise NotFound(f"model {model} is not open in this trainer")
        return self._sessions[model]


def _datum_tensors(scores: Scores, batch: Batch) -> Iterator[DatumTensors]:
    datums = scores.pack.datums
    rows = scores.logprobs_N.split([datum.num_actions for datum in datums])
    for datum, row in zip(datums, rows, strict=True):
        yield datum_tensors(datum, batch.trajectories[datum.trajectory_index].reward, row.cpu().numpy())
