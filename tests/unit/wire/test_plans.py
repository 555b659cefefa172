from __future__ import annotations

import numpy as np
import pytest

from wire.payload import decode, encode
from wire.plans import (
    ALL_ROWS,
    FUSED_LORA,
    ONEDNN_PRODUCTS,
    PEFT_LORA,
    TORCH_PRODUCTS,
    PlanSettings,
    StepPlan,
    decode_plan,
    decode_step_plan,
    encode_plan,
    encode_step_plan,
    plan_of,
)

SETTINGS = PlanSettings(max_tokens_per_pass=64, threads=3)


@pytest.mark.parametrize("shards", [[[[0]]], [[[2, 0], [1]]], [[[3, 1], [0]], [[2, 4]], [[5], [6], [7, 8]]]])
def test_a_plan_is_read_as_it_was_written(shards) -> None:
    plan = decode_plan(encode_plan(plan_of(shards, SETTINGS, "cascade", FUSED_LORA, 16, ONEDNN_PRODUCTS, seconds=2.0)))
    assert [[micro_batch.tolist() for micro_batch in shard] for shard in plan.shards] == shards
    assert (plan.settings, plan.kernel, plan.seconds) == (SETTINGS, "cascade", 0.0)
    assert (plan.lora, plan.head_rows, plan.products) == (FUSED_LORA, 16, ONEDNN_PRODUCTS)


def test_a_plan_of_an_earlier_version_had_pefts_layers_the_whole_head_and_torchs_products() -> None:
    written = encode_plan(plan_of([[[0]]], SETTINGS, "cascade", FUSED_LORA, 16, ONEDNN_PRODUCTS))
    header, arrays = decode(written)
    del header["lora"], header["head_rows"], header["products"]
    plan = decode_plan(encode(header, arrays))
    assert (plan.lora, plan.head_rows, plan.products) == (PEFT_LORA, ALL_ROWS, TORCH_PRODUCTS)


@pytest.mark.parametrize("plan", [StepPlan(1), StepPlan(8, 0.1)])
def test_a_plan_of_a_step_is_read_as_it_was_written(plan: StepPlan) -> None:
    assert decode_step_plan(encode_step_plan(plan)) == plan


def test_a_plan_of_many_datums_takes_less_than_a_byte_for_each() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(100_000).reshape(-1, 8)
    cut_up = [rng.permutation(group).tolist() for group in groups]  # as those that exceed the budget
    assert len(encode_plan(plan_of([groups.tolist()], SETTINGS, "cascade"))) < 5_000
    assert len(encode_plan(plan_of([cut_up], SETTINGS, "cascade"))) < 100_000
    assert len(encode_plan(plan_of([[[0]]], SETTINGS, "cascade"))) < 400


def test_what_is_no_plan_of_this_version_is_refused() -> None:
    with pytest.raises(ValueError, match="not a plan"):
        decode_plan(encode({"format": 2}))
    with pytest.raises(ValueError, match="not a plan"):
        decode_step_plan(encode({"format": 2}))
