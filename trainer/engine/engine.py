"""The training engine: weights, gradients and moments of many models on one base.

A pass packs datums into micro-batches. Each is scored under the model's weights;
the loss, or the client, says what a unit of each token's logprob is worth; those weights go back through the model
into a scratch gradient. Only a pass that came to its end adds the scratch to the model's gradient, so a refusal at
any point leaves nothing behind.
"""

# N targets of a micro-batch

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

import numpy as np
import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.canary import compute_canary, may_overflow
from trainer.engine.checkpoint import SessionSnapshot, load_session
from trainer.engine.finite import squares_finite
from trainer.engine.losses import LOSSES, LossOptions, make_loss
from trainer.engine.metrics import PassTally
from trainer.engine.objective import BuiltinObjective, ClientObjective, Objective
from trainer.engine.optim import adamw_step
from trainer.engine.packing import plan_micro_batches
from trainer.engine.residency import ResidentSessions
from trainer.engine.scores import Scores, refuse_broken_policy, trajectory_indices
from trainer.engine.session import Session
from trainer.engine.spill import SpillFolder
from trainer.engine.timing import PhaseTimer
from trainer.engine.validation import check_datums, check_lora, check_num_substeps, check_weights
from wire.datums import Datum
from wire.engine import AdamParams, BaseModelInfo, DatumTensors, LoraConfig, LossChoice, PassResult, StepResult
from wire.errors import InvalidRequest, NotFound, SpillLost
from wire.plans import Plan, PlanSettings, StepPlan, plan_of
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """max_tokens_per_pass bounds what is computed at once; it and threads go into plans, which decide the last bits.

    max_activation_bytes: a pass that would keep more for its backward recomputes its layers instead, at the same bits;
    None for half of the device's free memory, and 8 GiB on a CPU. threads: of torch, None for its default.

    max_grad_norm: clip the accumulated gradient to this 2-norm where a call does not say; None for no clipping.

    max_resident_bytes: of weights, gradients and moments on the device, None for no limit; models beyond it are
    parked, and one at a time comes on top while it is opened. max_host_bytes: of models parked in host memory (none
    if that is the device); the others go to files under spill_root (None: the system's for temporary files).

    canary: write a few logprobs beside each adapter, for samplers with an engine of their own to check theirs by.
    """

    max_tokens_per_pass: int = 16384
    max_activation_bytes: int | None = None
    threads: int | None = None
    max_grad_norm: float | None = None
    max_resident_bytes: int | None = None
    max_host_bytes: int = 16 << 30
    spill_root: Path | None = None
    canary: bool = True


class TrainingEngine:
    """`wire.engine.Engine` in torch."""

    def __init__(
        self,
        base: BaseModel,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
        before_micro_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_micro_batch` may raise to end a pass half way; the model is then as if it had never begun."""
        self._base = base
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._before_micro_batch = before_micro_batch
        self._sessions = ResidentSessions(
            base.device,
            self._settings.max_resident_bytes,
            self._settings.max_host_bytes if base.device.type != "cpu" else 0,
            SpillFolder(self._settings.spill_root),
            self._release,
        )
        limit = self._settings.max_activation_bytes
        self._max_activation_bytes = base.room_for_activations() if limit is None else limit
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)

    @property
    def _threads(self) -> int:
        return self._settings.threads or torch.get_num_threads()

    @property
    def info(self) -> BaseModelInfo:
        """Facts of the base model."""
        return self._base.info

    @property
    def losses(self) -> Mapping[str, Mapping[str, float | None]]:
        """Every loss by name, with its hyperparameters and options and their defaults (None: a shorthand, unset)."""
        return {name: {**loss.defaults(), **LossOptions.defaults()} for name, loss in LOSSES.items()}

    def open(self, model: UUID, lora: LoraConfig, adapter: Path | None, state: Path | None) -> None:
        """Make a model resident. Raises CorruptCheckpoint, and keeps what was held, if its files do not fit."""
        check_lora(lora)
        layout = self._base.adapter(lora).layout
        session = load_session(lora, layout, adapter, state, self._base.dtype, self._base.device)
        self._sessions.put(model, session)

    def close(self, model: UUID) -> None:
        """Forget everything of this model."""
        self._sessions.remove(model)

    def holds(self, model: UUID) -> bool:
        """Whether the model is open. One that was parked is brought back; if that fails, it is not open any more."""
        try:
            self._sessions.get(model)
        except (NotFound, SpillLost):
            return False
        return True

    def places(self) -> dict[str, tuple[int, int]]:
        """Open models and their bytes on the device, in host memory and on disk. May be called from any thread."""
        return self._sessions.places()

    def plan(self, datums: Sequence[Datum], num_substeps: int = 1, settings: PlanSettings | None = None) -> Plan:
        """How passes over these datums are cut up, by these settings or the engine's own."""
        started = self._clock()
        check_num_substeps(num_substeps)
        check_datums(datums, self.info)
        plan = self._plan(datums, num_substeps, settings)
        return replace(plan, seconds=self._clock() - started)

    def forward_backward(
        self, model: UUID, datums: Sequence[Datum], loss: LossChoice, plan: Plan | None = None
    ) -> PassResult:
        """Add the gradient of a built-in loss, summed over the scored positions unless its options say else."""
        return self._gradient_pass(model, datums, self._objective(datums, loss), loss.num_substeps, plan)

    def evaluate(self, model: UUID, datums: Sequence[Datum], loss: LossChoice, plan: Plan | None = None) -> PassResult:
        """As `forward_backward`, without a gradient; by the same plan its logprobs are the same to the bit."""
        objective = self._objective(datums, loss)
        phases, tally = PhaseTimer(self._clock, plan.seconds if plan else 0.0), PassTally()
        self._base.bind(self._sessions.get(model))
        with phases("plan"):
            plan = plan or self._plan(datums, loss.num_substeps)
        with self._computing_by(plan):
            for micro_batch in _micro_batches(plan, datums):
                with phases("forward"), torch.no_grad():
                    scores = self._score(micro_batch)
                with phases("loss"):
                    tally.add(scores, objective(scores))
        return tally.result(datums, phases.metrics(), asdict(plan.settings))

    def forward(self, model: UUID, datums: Sequence[Datum], plan: Plan | None = None) -> list[DatumTensors]:
        """Logprobs of the current policy; a `backward` by the same plan sees the same bits."""
        check_datums(datums, self.info)
        self._base.bind(self._sessions.get(model))
        plan = plan or self._plan(datums, num_substeps=1)
        with torch.no_grad(), self._computing_by(plan):
            scored = [self._score(micro_batch) for micro_batch in _micro_batches(plan, datums)]
        logprobs = {datum: row for scores in scored for datum, row in scores.per_datum().items()}
        return [_tensors(datum, logprobs[datum]) for datum in datums]

    def backward(
        self, model: UUID, datums: Sequence[Datum], weights: Sequence[Float32Array], plan: Plan | None = None
    ) -> PassResult:
        """Add the gradient of −Σ w · logprob; weights of positions that are not scored are ignored."""
        check_datums(datums, self.info, scores_several=False)
        check_weights(datums, weights)
        return self._gradient_pass(model, datums, ClientObjective(datums, weights), 1, plan)

    def plan_step(self) -> StepPlan:
        """What of the engine's settings a step depends on."""
        return StepPlan(self._threads, self._settings.max_grad_norm)

    def optim_step(self, model: UUID, adam: AdamParams, plan: StepPlan | None = None) -> StepResult:
        """Apply the accumulated gradient by AdamW and clear it."""
        started, plan = self._clock(), plan or self.plan_step()
        with _threads(plan.threads):
            result = adamw_step(self._sessions.get(model), adam, plan.max_grad_norm)
        return StepResult({**result.metrics, "seconds": self._clock() - started}, result.moved)

    def save(self, model: UUID, adapter: Path, state: Path) -> None:
        """Write the adapter as samplers load it, and the state as training goes on from it.

        Raises NonFinite, before anything is written, for weights with which no token could be sampled.
        """
        self.snapshot(model).write(adapter, state)

    def snapshot(self, model: UUID) -> SessionSnapshot:
        """What `save` would write now; it may be written by another thread, while the model is trained on."""
        session = self._sessions.get(model)
        canary = None
        if self._settings.canary or may_overflow(self._base, session):
            canary = compute_canary(self._base, session)
        return SessionSnapshot.of(
            session,
            self._base.adapter(session.lora),
            self._base.name,
            self._base.served_dtype,
            canary if self._settings.canary else None,
        )

    def _objective(self, datums: Sequence[Datum], loss: LossChoice) -> BuiltinObjective:
        built_in, options = make_loss(loss), LossOptions.from_config(loss.config)
        check_num_substeps(loss.num_substeps)
        check_datums(
            datums,
            self.info,
            sampling_logprobs_optional=built_in.sampling_logprobs_optional,
            scores_several=built_in.scores_several,
        )
        return BuiltinObjective(built_in, options, datums, self._base.base_logprobs)

    def _gradient_pass(
        self,
        model: UUID,
        datums: Sequence[Datum],
        objective: Objective,
        num_substeps: int,
        plan: Plan | None,
    ) -> PassResult:
        phases, tally = PhaseTimer(self._clock, plan.seconds if plan else 0.0), PassTally()
        with phases("plan"):
            plan = plan or self._plan(datums, num_substeps)
            micro_batches = _micro_batches(plan, datums)
        with self._all_or_none(self._sessions.get(model)) as gradient, self._computing_by(plan):
            for micro_batch in micro_batches:
                with phases("forward"):
                    scores = self._score(micro_batch)
                with phases("loss"):
                    weighted = objective(scores)
                with phases("backward"):
                    scores.backpropagate(weighted.weights_N)
                    if not squares_finite(gradient):
                        raise self._overflow(gradient, micro_batch, datums, objective)
                tally.add(scores, weighted)
        return tally.result(datums, phases.metrics(), asdict(plan.settings))

    def _overflow(
        self, scratch: torch.Tensor, micro_batch: list[Datum], datums: Sequence[Datum], objective: Objective
    ) -> InvalidRequest:
        """Names the heaviest datum whose gradient overflows alone. Computes each again: the call is lost anyway."""
        weights: dict[Datum, float] = {}
        for datum in micro_batch:
            scratch.zero_()
            scores = self._score([datum])
            weights_N = objective(scores).weights_N
            scores.backpropagate(weights_N)
            if not squares_finite(scratch):
                weights[datum] = weights_N.abs().max().item()
        if weights:
            # One absurd reward drags the advantages of its whole group along; it is the farthest from the mean itself.
            datum = max(weights, key=lambda datum: weights[datum])
            where = f"input {datum.origin.trajectory_index} (datum {datums.index(datum)})"
            return InvalidRequest(
                f"{where}: its gradient is not finite, for its reward, weights or output_logprobs are too far off"
            )
        indices = trajectory_indices(micro_batch)
        return InvalidRequest(
            f"inputs {indices.min()} to {indices.max()}: the gradient of each is finite, but their sum, with what came "
            "before them in this batch, is not; scale their rewards or weights down"
        )

    @contextmanager
    def _computing_by(self, plan: Plan) -> Generator[None]:
        """The block computes by the plan's kernel and threads."""
        with _threads(plan.settings.threads), self._base.computing_by(plan.kernel):
            yield

    @contextmanager
    def _all_or_none(self, session: Session) -> Generator[torch.Tensor]:
        """The scratch that backward passes fill; it counts only if the block comes to its end."""
        scratch = self._base.bind(session).scratch_gradient
        scratch.zero_()
        yield scratch
        session.add_gradient(scratch)

    def _plan(self, datums: Sequence[Datum], num_substeps: int, settings: PlanSettings | None = None) -> Plan:
        settings = settings or PlanSettings(self._settings.max_tokens_per_pass, self._threads)
        micro_batches = plan_micro_batches(
            datums,
            num_substeps=num_substeps,
            budget=self._base.budget(settings.max_tokens_per_pass),
        )
        indices = {datum: index for index, datum in enumerate(datums)}
        shard = [[indices[datum] for datum in micro_batch] for micro_batch in micro_batches]
        return plan_of([shard], settings, self._base.kernel)

    def _score(self, micro_batch: list[Datum]) -> Scores:
        self._before_micro_batch()
        pack = self._base.pack(micro_batch)
        recompute = torch.is_grad_enabled() and self._base.activation_bytes(pack) > self._max_activation_bytes
        scores = Scores.of(pack, *self._base.logprobs(pack, recompute=recompute))
        refuse_broken_policy(scores)
        return scores

    def _release(self, session: Session) -> None:
        """A stale buffer that the live adapter is bound to must not outlive its session; the next use binds again."""
        self._base.adapter(session.lora).release()


@contextmanager
def _threads(count: int) -> Generator[None]:
    """The block computes with so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _micro_batches(plan: Plan, datums: Sequence[Datum]) -> list[list[Datum]]:
    assert np.array_equal(np.sort(plan.order_D), np.arange(len(datums))), "the plan is of another batch"
    assert len(plan.shards) == 1, "this engine sums one shard"
    return [[datums[index] for index in micro_batch.tolist()] for micro_batch in plan.shards[0]]


def _tensors(datum: Datum, logprobs: Float32Array) -> DatumTensors:
    return DatumTensors(
        trajectory_index=datum.origin.trajectory_index,
        reward=datum.origin.reward,
        logprobs=datum.aligned(logprobs),
        sampling_logprobs=datum.aligned(datum.sampling_logprobs),
        mask=datum.aligned(np.ones(datum.num_scored, np.float32)),
    )
