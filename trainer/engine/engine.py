"""The training engine: weights, gradients and moments of many models on one base.

A pass packs datums into micro-batches. Each is scored under the model's weights;
the loss, or the client, says what a unit of each token's logprob is worth; those weights go back through the model
into a scratch gradient. Only a pass that came to its end adds the scratch to the model's gradient, so a refusal at
any point leaves nothing behind.

Where several ranks make up an engine, each carries out the same calls and computes the shards that are its own.
"""

# M micro-batches

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

import numpy as np
import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.canary import compute_canary, may_overflow
from trainer.engine.checkpoint import SessionSnapshot, load_session
from trainer.engine.heap import Heap
from trainer.engine.lora import LiveAdapter
from trainer.engine.losses import LOSSES, LossOptions, make_loss
from trainer.engine.metrics import MicroBatchFigures, PassTally
from trainer.engine.micro_batches import MicroBatches
from trainer.engine.objective import BuiltinObjective, ClientObjective, Objective
from trainer.engine.optim import adamw_step
from trainer.engine.packing import plan_shards
from trainer.engine.ranks import Alone, Found, Ranks
from trainer.engine.residency import ResidentSessions
from trainer.engine.session import Session
from trainer.engine.spill import SpillFolder
from trainer.engine.timing import PhaseTimer
from trainer.engine.turns import turns_of
from trainer.engine.validation import check_datums, check_lora, check_num_substeps, check_pictures, check_weights
from trainer.engine.vision.features import Encoded
from trainer.engine.vision.sight import MAX_FEATURE_BYTES
from wire.datums import Datum
from wire.engine import (
    NO_PICTURES,
    AdamParams,
    BaseModelInfo,
    DatumTensors,
    LoraConfig,
    LossChoice,
    PassResult,
    Pictures,
    StepResult,
)
from wire.errors import NotFound, SpillLost
from wire.plans import FUSED_LORA, Plan, PlanSettings, StepPlan, plan_of
from wire.process.faults import fault_point
from wire.trajectories import Float32Array

# What a pass must have for a GPU not to wait: tokens, for the gathers of its layers, and multiplications of a forward,
# for the launches of its kernels.
_WORTH_A_PASS_TOKENS = 4096
_WORTH_A_PASS = _WORTH_A_PASS_TOKENS * 8e9
# Tokens that a CPU computes in the time that a micro-batch takes beside its tokens.
_WORTH_A_MICRO_BATCH_TOKENS = 256
# Multiplications of a micro-batch's forward for which a thread more is worth waking: below half of it two took longer
# than one, above it as much processor time together (4.2M parameters: 64 tokens and 256).
_WORTH_A_THREAD = 5e8


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """max_tokens_per_pass bounds what is computed at once; it and threads go into plans, which decide the last bits.

    max_activation_bytes: a pass that would keep more for its backward recomputes its layers instead, at the same bits;
    None for half of what is free, on a CPU at most 8 GiB. threads: of torch, None for its default. max_threads:
    that a pass has whose micro-batches are long enough for so many; None for no more than `threads`.

    max_feature_bytes: of what a tower made of pictures, kept from one pass to the next.

    max_grad_norm: clip the accumulated gradient to this 2-norm where a call does not say; None for no clipping.

    max_resident_bytes: of weights, gradients and moments on the device, None for no limit; models beyond it are
    parked, and one at a time comes on top while it is opened. max_host_bytes: of models parked in host memory (none
    if that is the device); the others go to files under spill_root (None: the system's for temporary files).

    canary: write a few logprobs beside each adapter, for samplers with an engine of their own to check theirs by.

    max_shards: into how many parts a batch is divided, so that as many ranks can compute it; min_shard_tokens: what a
    part must cost, None for what keeps a GPU busy with this base. Plans hold what came of it.
    """

    max_tokens_per_pass: int = 16384
    max_shards: int = 8
    min_shard_tokens: int | None = None
    max_activation_bytes: int | None = None
    max_feature_bytes: int = MAX_FEATURE_BYTES
    threads: int | None = None
    max_threads: int | None = None
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
        ranks: Ranks | None = None,
        heap: Heap | None = None,
    ) -> None:
        """`before_micro_batch` may raise to end a pass half way; the model is then as if it had never begun. `ranks`:
        None for a process that computes alone. `heap`: None for one whose memory is not ours to return."""
        self._base = base
        self._ranks: Ranks = ranks or Alone()
        self._heap = heap
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._sessions = ResidentSessions(
            base.device,
            self._settings.max_resident_bytes,
            self._settings.max_host_bytes if base.device.type != "cpu" else 0,
            SpillFolder(self._settings.spill_root),
            self._release,
        )
        if base.sight is not None:
            base.sight.cache.max_bytes = self._settings.max_feature_bytes
        limit = self._settings.max_activation_bytes
        max_activation_bytes = base.room_for_activations() if limit is None else limit
        self._micro_batches = MicroBatches(base, self._ranks, before_micro_batch, max_activation_bytes)
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
        with self._ranks.agreed():
            layout = self._base.adapter(lora).layout
            if self._ranks.rank == 0:
                session = load_session(lora, layout, adapter, state, self._base.dtype, self._base.device)
            else:
                session = Session.starting_from(lora, layout, self._zeros(layout.num_parameters))
            fault_point("open:after-read")
        session.num_steps = self._ranks.gathered(session.num_steps)[0]
        for buffer in session.buffers().values():
            self._ranks.copy_from_first(buffer)
        fault_point("open:after-copy")
        with self._ranks.agreed():
            self._sessions.put(model, session)

    def close(self, model: UUID) -> None:
        """Forget everything of this model."""
        self._sessions.remove(model)

    def holds(self, model: UUID) -> bool:
        """Whether the model is open. One that was parked is brought back; if that fails, it is not open any more."""
        try:
            self._session(model)
        except (NotFound, SpillLost):
            self._sessions.remove(model)
            return False
        return True

    def places(self) -> dict[str, tuple[int, int]]:
        """Open models and their bytes on the device, in host memory and on disk. May be called from any thread."""
        return self._sessions.places()

    def encoded(self) -> Encoded | None:
        """What came of pictures so far; None for a base that takes text alone. May be called from any thread."""
        return self._base.sight and self._base.sight.cache.so_far

    def plan(self, datums: Sequence[Datum], num_substeps: int = 1, settings: PlanSettings | None = None) -> Plan:
        """How passes over these datums are cut up, by these settings or the engine's own."""
        started = self._clock()
        check_num_substeps(num_substeps)
        check_datums(datums, self.info)
        plan = self._plan(datums, num_substeps, settings)
        return replace(plan, seconds=self._clock() - started)

    def forward_backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """Add the gradient of a built-in loss, summed over the scored positions unless its options say else."""
        return self._gradient_pass(model, datums, self._objective(datums, loss), loss.num_substeps, plan, pictures)

    def evaluate(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """As `forward_backward`, without a gradient; by the same plan its logprobs are the same to the bit."""
        objective = self._objective(datums, loss)
        check_pictures(datums, pictures)
        phases = PhaseTimer(self._clock, plan.seconds if plan else 0.0)
        self._bound(model)
        with phases("plan"):
            plan = plan or self._plan(datums, loss.num_substeps)
            turns = turns_of(plan, datums, self._ranks)
        found = dict[int, MicroBatchFigures]()
        with self._computing_by(plan), self._base.seeing(pictures):
            for turn in turns:
                with phases("forward"), torch.no_grad():
                    scores = self._micro_batches.score(turn)
                with phases("loss"):
                    weighted = self._micro_batches.weigh(objective, scores)
                if turn and scores and weighted:
                    found[turn.number] = MicroBatchFigures.of(scores, weighted)
        return self._tally(plan, datums, found).result(datums, phases.metrics(), asdict(plan.settings))

    def forward(
        self, model: UUID, datums: Sequence[Datum], plan: Plan | None = None, pictures: Pictures = NO_PICTURES
    ) -> list[DatumTensors]:
        """Logprobs of the current policy; a `backward` by the same plan sees the same bits."""
        check_datums(datums, self.info)
        check_pictures(datums, pictures)
        self._bound(model)
        plan = plan or self._plan(datums, num_substeps=1)
        found = dict[int, dict[int, Float32Array]]()
        with torch.no_grad(), self._computing_by(plan), self._base.seeing(pictures):
            for turn in turns_of(plan, datums, self._ranks):
                scores = self._micro_batches.score(turn)
                if turn and scores:
                    found[turn.number] = dict(zip(turn.indices, scores.per_datum().values(), strict=True))
        logprobs = {index: row for rows in self._by_number(found) for index, row in rows.items()}
        return [_tensors(datum, logprobs[index]) for index, datum in enumerate(datums)]

    def backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        weights: Sequence[Float32Array],
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """Add the gradient of −Σ w · logprob; weights of positions that are not scored are ignored."""
        check_datums(datums, self.info, scores_several=False)
        check_weights(datums, weights)
        return self._gradient_pass(model, datums, ClientObjective(datums, weights), 1, plan, pictures)

    def plan_step(self) -> StepPlan:
        """What of the engine's settings a step depends on."""
        return StepPlan(self._threads, self._settings.max_grad_norm)

    def optim_step(self, model: UUID, adam: AdamParams, plan: StepPlan | None = None) -> StepResult:
        """Apply the accumulated gradient by AdamW and clear it."""
        started, plan = self._clock(), plan or self.plan_step()
        with _threads(plan.threads):
            session = self._session(model)
            fault_point("adamw:before-step")
            with self._all_or_none(session):
                result = adamw_step(session, adam, plan.max_grad_norm)
        fault_point("adamw:after-step")
        return StepResult({**result.metrics, "seconds": self._clock() - started}, result.moved)

    def checksum(self, model: UUID) -> int:
        """Of all bits of weights and moments: equal models have equal ones, and one bit makes another."""
        return self._sessions.get(model).checksum()

    def snapshot(self, model: UUID) -> SessionSnapshot:
        """The adapter as samplers load it, and the state as training goes on from it, to be written by any thread,
        while the model is trained on. Raises NonFinite for weights with which no token could be sampled."""
        session = self._session(model)
        with self._ranks.agreed():
            return self._snapshot(session)

    def _snapshot(self, session: Session) -> SessionSnapshot:
        canary = None
        if self._settings.canary or may_overflow(self._base, session):
            fault_point("canary:before-pass")
            canary = compute_canary(self._base, session)
            fault_point("canary:after-pass")
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
        return BuiltinObjective(built_in, options, datums)

    def _gradient_pass(
        self,
        model: UUID,
        datums: Sequence[Datum],
        objective: Objective,
        num_substeps: int,
        plan: Plan | None,
        pictures: Pictures,
    ) -> PassResult:
        check_pictures(datums, pictures)
        phases = PhaseTimer(self._clock, plan.seconds if plan else 0.0)
        session, adapter = self._bound(model)
        with phases("plan"):
            plan = plan or self._plan(datums, num_substeps)
            turns = turns_of(plan, datums, self._ranks)
        scratch = adapter.scratch_gradient
        with self._ranks.agreed():
            shards = self._ranks.shard_sum(len(plan.shards), scratch)
        found = dict[int, MicroBatchFigures]()
        with self._computing_by(plan), self._base.seeing(pictures), self._base.learning_from(datums):
            self._base.measure_activations()
            for turn in turns:
                if turn and turn.opens_shard:
                    scratch.zero_()
                figures = self._micro_batches.learn(turn, objective, scratch, phases)
                if turn and figures:
                    found[turn.number] = figures
                if turn and turn.closes_shard:
                    shards.add(turn.shard, scratch)
            tally = self._tally(plan, datums, found)
            total = shards.total()
            with self._all_or_none(session):
                session.add_gradient(total)
        return tally.result(datums, phases.metrics(), asdict(plan.settings))

    def _tally(self, plan: Plan, datums: Sequence[Datum], mine: Mapping[int, MicroBatchFigures]) -> PassTally:
        tally = PassTally()
        for micro_batch, figures in zip(plan.micro_batches, self._by_number(mine), strict=True):
            tally.add([datums[index] for index in micro_batch.tolist()], figures)
        return tally

    def _by_number(self, mine: Mapping[int, Found]) -> list[Found]:
        """What all ranks found in their micro-batches, by the numbers of these."""
        found = dict[int, Found]()
        for of_rank in self._ranks.gathered(dict(mine)):
            found |= of_rank
        return [found[number] for number in sorted(found)]

    @contextmanager
    def _computing_by(self, plan: Plan) -> Generator[None]:
        """The block computes by the plan's kernels and threads."""
        in_use = self._heap.in_use() if self._heap else nullcontext()
        by = self._base.computing_by(plan.kernel, plan.lora, plan.head_rows, plan.products)
        with in_use, _threads(plan.settings.threads), by:
            yield

    def _plan(self, datums: Sequence[Datum], num_substeps: int, settings: PlanSettings | None = None) -> Plan:
        """settings: of an operation whose plan was not recorded; it had one shard, PEFT's forward, torch's
        products, the whole head, no group apart."""
        own = settings is None
        settings = settings or PlanSettings(self._settings.max_tokens_per_pass, self._threads)
        worth = max(_WORTH_A_PASS_TOKENS, math.ceil(_WORTH_A_PASS / self.info.num_parameters))
        min_shard_tokens = self._settings.min_shard_tokens or worth
        apart_tokens = _WORTH_A_MICRO_BATCH_TOKENS if self._base.device.type == "cpu" else worth
        shards = plan_shards(
            datums,
            num_substeps=num_substeps,
            budget=self._base.budget(
                settings.max_tokens_per_pass,
                self._settings.max_shards if own else 1,
                min_shard_tokens,
                apart_tokens if own else math.inf,
            ),
        )
        indices = {datum: index for index, datum in enumerate(datums)}
        numbers = [[[indices[datum] for datum in micro_batch] for micro_batch in shard] for shard in shards]
        base = self._base
        if not own:
            return plan_of(numbers, settings, base.kernel)
        settings = replace(settings, threads=self._threads_for(shards))
        return plan_of(numbers, settings, base.kernel, FUSED_LORA, base.head_rows, base.products)

    def _threads_for(self, shards: Sequence[Sequence[Sequence[Datum]]]) -> int:
        """Of the base, the batch and the settings, never of the load: what a pass is planned with does not depend on
        its neighbours."""
        longest = max(sum(datum.num_tokens for datum in micro_batch) for shard in shards for micro_batch in shard)
        worth = int(longest * self.info.num_parameters / _WORTH_A_THREAD)
        return max(self._threads, min(self._settings.max_threads or 1, worth))

    def _session(self, model: UUID) -> Session:
        """The model's, on the device of each rank."""
        with self._ranks.agreed():
            return self._sessions.get(model)

    def _bound(self, model: UUID) -> tuple[Session, LiveAdapter]:
        """The model's, and the adapter that computes by its weights from now on."""
        with self._ranks.agreed():
            session = self._sessions.get(model)
            return session, self._base.bind(session)

    @contextmanager
    def _all_or_none(self, session: Session) -> Generator[None]:
        """The block changes the session on all ranks; if it raises on one, the session is as it was on all of them."""
        before = replace(session)
        try:
            with self._ranks.agreed():
                yield
        except Exception:
            session.put_back(before)
            raise

    def _zeros(self, length: int) -> torch.Tensor:
        return torch.zeros(length, dtype=self._base.dtype, device=self._base.device)

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


def _tensors(datum: Datum, logprobs: Float32Array) -> DatumTensors:
    return DatumTensors(
        trajectory_index=datum.origin.trajectory_index,
        reward=datum.origin.reward,
        logprobs=datum.aligned(logprobs),
        sampling_logprobs=datum.aligned(datum.sampling_logprobs),
        mask=datum.aligned(np.ones(datum.num_scored, np.float32)),
    )
