"""A pass follows the plan that it is given, and not the settings of the engine that carries it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import MODEL, BatchEngine, mixed_batch, opened, session, tiny_engine, tiny_model
from trainer.engine import engine as engine_module
from trainer.engine import unembedding
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.kernels import KERNELS
from wire.conversion import to_datums
from wire.engine import AdamParams, LossChoice
from wire.plans import (
    ALL_ROWS,
    PEFT_LORA,
    TORCH_PRODUCTS,
    Plan,
    PlanSettings,
    decode_plan,
    decode_step_plan,
    encode_plan,
    encode_step_plan,
    plan_of,
)

IS = LossChoice("importance_sampling")
ADAM = AdamParams(learning_rate=1e-2, eps=1e-3)
STEPS = [(1, 0.01), (2, None), (2, None)]
"""Threads and max_grad_norm."""


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def other_engine() -> tuple[BatchEngine, list[int]]:
    """With other settings, and the threads that it had before each micro-batch."""
    seen: list[int] = []
    settings = EngineSettings(max_tokens_per_pass=4096, threads=2)
    base = BaseModel(tiny_model())
    engine = BatchEngine(base, settings, before_micro_batch=lambda: seen.append(torch.get_num_threads()))
    return opened(engine), seen


def micro_batches(plan: Plan) -> list[list[int]]:
    (shard,) = plan.shards
    return [micro_batch.tolist() for micro_batch in shard]


def test_other_settings_and_the_same_plan_give_the_same_bits() -> None:
    batch, engine = mixed_batch(), opened(tiny_engine(max_tokens_per_pass=30))
    plan = engine.plan(batch)
    passed = engine.forward_backward(MODEL, batch, IS, plan)
    forwarded = engine.forward(MODEL, batch, plan)
    weights = [row.logprobs for row in forwarded]
    engine.backward(MODEL, batch, weights, plan)

    other, threads = other_engine()
    recorded = decode_plan(encode_plan(plan))
    replayed = other.forward_backward(MODEL, batch, IS, recorded)
    for row, again in zip(forwarded, other.forward(MODEL, batch, recorded), strict=True):
        assert np.array_equal(row.logprobs, again.logprobs)
    other.backward(MODEL, batch, weights, recorded)

    assert torch.equal(session(other).gradient, session(engine).gradient)
    assert len(threads) == 3 * len(micro_batches(plan))
    assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    names = ("max_tokens_per_pass", "threads", "micro_batches:sum")
    assert [replayed.metrics[name] for name in names] == [passed.metrics[name] for name in names]


def test_without_the_plan_other_settings_cut_the_batch_up_otherwise_and_end_in_other_bits() -> None:
    batch, engine = mixed_batch(), opened(tiny_engine(max_tokens_per_pass=30))
    other, _ = other_engine()
    engine.forward_backward(MODEL, batch, IS)
    other.forward_backward(MODEL, batch, IS)
    assert micro_batches(engine.plan(batch)) != micro_batches(other.plan(batch))
    assert not torch.equal(session(other).gradient, session(engine).gradient)


def test_settings_alone_make_the_plan_that_another_engine_made_by_them() -> None:
    batch, engine = mixed_batch(), tiny_engine(max_tokens_per_pass=30)
    other, _ = other_engine()
    plan = other.plan(batch, 2, PlanSettings(30, 1))
    assert plan.settings == PlanSettings(30, 1)
    computed_by = plan.lora, plan.head_rows, plan.products
    assert computed_by == (PEFT_LORA, ALL_ROWS, TORCH_PRODUCTS), "no version that wrote no plans had others"
    own = engine.plan(batch, 2)
    assert encode_plan(replace(plan, lora=own.lora, head_rows=own.head_rows, products=own.products)) == encode_plan(own)
    assert [len(micro_batches(other.plan(batch, substeps))) for substeps in (1, 2, 6)] == [1, 2, 6]


def test_a_pass_is_computed_by_the_kernel_of_its_plan() -> None:
    batch, engine = mixed_batch(), opened(tiny_engine())
    own = engine.plan(batch)
    made: list[str] = []
    dense = plan_of([micro_batches(own)], own.settings, "dense", own.lora, own.head_rows)
    prepare = KERNELS["dense"].prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KERNELS["dense"], "prepare", lambda *args: made.append("dense") or prepare(*args))
        engine.forward_backward(MODEL, batch, IS, own)
        assert (own.kernel, made) == ("cascade", [])
        engine.forward_backward(MODEL, batch, IS, dense)
    assert made
    assert engine.plan(batch).kernel == "cascade"


def test_a_plan_without_blocks_of_the_vocabulary_is_computed_by_the_whole_head_to_the_bit() -> None:
    batch, whole = mixed_batch(), opened(tiny_engine())
    with patch.object(unembedding, "BLOCK_ROWS", 32):
        engine = opened(tiny_engine())
    plan = engine.plan(batch)
    assert (plan.head_rows, whole.plan(batch).head_rows) == (32, 89)
    for each, its in ((whole, None), (engine, replace(plan, head_rows=ALL_ROWS))):
        each.forward_backward(MODEL, batch, IS, its)
    assert torch.equal(session(engine).gradient, session(whole).gradient)
    for its, block_rows in ((replace(plan, head_rows=ALL_ROWS), 89), (plan, 32)):
        with patch.object(unembedding, "blocks_of", wraps=unembedding.blocks_of) as cut:
            engine.forward_backward(MODEL, batch, IS, its)
        assert {call.args for call in cut.call_args_list} == {(89, block_rows)}


def test_a_kernel_that_does_not_run_here_gives_way_to_the_models_own() -> None:
    batch, engines = mixed_batch(), [opened(tiny_engine()) for _ in range(2)]
    own = engines[0].plan(batch)
    elsewhere = plan_of([micro_batches(own)], own.settings, "of a later version", own.lora, own.head_rows)
    for engine, plan in zip(engines, (own, elsewhere), strict=True):
        engine.forward_backward(MODEL, batch, IS, plan)
    assert torch.equal(session(engines[0]).gradient, session(engines[1]).gradient)


def test_a_step_follows_its_plan() -> None:
    engines = [BatchEngine(BaseModel(tiny_model()), EngineSettings(threads=t, max_grad_norm=n)) for t, n in STEPS]
    planned, other, unplanned = (opened(engine) for engine in engines)
    plan = planned.plan_step()
    for engine in (planned, other, unplanned):
        engine.forward_backward(MODEL, mixed_batch(), IS, planned.plan(mixed_batch()))
    planned.optim_step(MODEL, ADAM, plan)
    other.optim_step(MODEL, ADAM, decode_step_plan(encode_step_plan(plan)))
    unplanned.optim_step(MODEL, ADAM)
    assert torch.equal(session(other).weights, session(planned).weights)
    assert not torch.equal(session(unplanned).weights, session(planned).weights)
    assert torch.get_num_threads() == STEPS[-1][0]


def test_long_micro_batches_have_the_threads_that_they_are_worth() -> None:
    """By the base and the batch alone, and what a replay does with the plan is the plan's."""
    batch, tokens = mixed_batch(), sum(len(datum.model_input) for datum in to_datums(mixed_batch()))
    engine = BatchEngine(BaseModel(tiny_model()), EngineSettings(threads=1, max_threads=3))

    def planned(worth_threads: float, **settings: object) -> int:
        each = tokens * engine.info.num_parameters / worth_threads
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "_WORTH_A_THREAD", each)
            return engine.plan(batch, **settings).settings.threads

    assert [planned(worth) for worth in (0.5, 2.5, 9)] == [1, 2, 3]
    assert planned(9, settings=PlanSettings(4096, 2)) == 2
    assert engine.plan_step().threads == 1


def test_a_plan_of_another_batch_is_not_followed() -> None:
    batch, engine = mixed_batch(), opened(tiny_engine())
    for indices in ([0], [*range(7), 6], [*range(9)]):
        with pytest.raises(AssertionError, match="another batch"):
            engine.forward_backward(MODEL, batch, IS, plan_of([[indices]], PlanSettings(30, 1), "cascade"))
    assert not session(engine).gradient.any()
