"""The benchmarks run, and what they say of a batch is so. Sizes are the least that still share, merge and pad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

from bench import baselines, block_diagonal
from bench.bars import Bar
from bench.baselines import gradients, worst_relative_error
from bench.batches import SHAPES, Shape, count_tokens, random_batch
from bench.big_bases import measure_base
from bench.checkpoint_write import checkpoint_write
from bench.engine import run
from bench.group_memory import measure_memory
from bench.memory import peak_bytes
from bench.models import BIG_BASES
from bench.policies import make_policies
from bench.step_time import NAIVE, OURS

TREE = Shape(2, 4, 2, prompt=(8, 13), output=(2, 6), observation=(2, 6))
FLAT = Shape(1, 4, 1, prompt=(8, 13), output=(2, 6), shared_prompt=False)
TINY = Qwen3Config(
    vocab_size=89,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_quick_run_finds_all_gradients_equal_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    status = run(TINY, {"A": TREE, "U": FLAT}, rounds=1, pair_rounds=1, whole=False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0
    assert figures["batches"]["A"]["variants"].keys() == {"a naive", "b merged", "c packed", "trl", "ours"}
    assert {bar["name"] for bar in figures["bars"]} >= {"batch A: times faster than a naive"}


def test_a_variant_with_another_gradient_is_told(tmp_path: Path) -> None:
    policies = make_policies(TINY, tmp_path / "policies")
    batch, other = (policies.batch(TREE, seed) for seed in (0, 1))
    expected = gradients(stock := policies.stock(), baselines.merged(stock, batch))
    assert worst_relative_error(policies.our_gradients(batch), expected) <= 1e-5
    assert worst_relative_error(policies.our_gradients(other), expected) > 1e-2


def test_attention_of_one_policy_is_not_that_of_another(tmp_path: Path) -> None:
    policies = make_policies(TINY, tmp_path / "policies")
    block_diagonal.register()
    packing, stock = policies.stock(block_diagonal.IMPLEMENTATION), policies.stock()
    implementations = {policy.config._attn_implementation for policy in (packing, stock)}
    assert implementations == {block_diagonal.IMPLEMENTATION, "sdpa"}


def test_what_runs_on_a_gpu_runs_on_a_cpu_with_a_tiny_base() -> None:
    figures = measure_base(TINY, TREE, device="cpu", dtype=torch.bfloat16, rank=2, steps=1)
    assert figures["unique_tokens"] == count_tokens(random_batch(TREE, TINY.vocab_size, 0)).unique
    assert 0 < figures["mfu"] < 1


@pytest.mark.parametrize(("name", "billions"), [("Qwen3-4B", 4.02), ("Qwen3-8B", 8.19)])
def test_big_bases_are_as_large_as_their_names(name: str, billions: float) -> None:
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**BIG_BASES[name]))
    assert model.num_parameters() / 1e9 == pytest.approx(billions, abs=0.01)


def test_peak_memory_counts_what_was_live_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            one, other = torch.empty(1 << 20), torch.empty(1 << 20)
            del one, other

    assert peak_bytes(step) == 2 * 4 << 20


def test_memory_is_measured_for_every_variant() -> None:
    peaks = measure_memory(TINY, TREE, naive_rows_at_once=4)
    assert peaks[OURS] < peaks[NAIVE]


def test_a_checkpoint_is_written_in_three_ways() -> None:
    seconds, num_bytes = checkpoint_write(rank=1, rounds=1)
    assert seconds.keys() == {"save", "copy", "publish"}
    assert num_bytes > 0


def test_tokens_that_rollouts_share_are_counted_once() -> None:
    shape = Shape(1, 2, 1, prompt=(4, 5), output=(3, 4))
    counts = count_tokens(random_batch(shape, vocab_size=10_000, seed=0))
    # The prompt of 4 once, and the first two of three output tokens of each: they see 5 and 6 tokens.
    assert (counts.unique, counts.unique_pairs, counts.actions) == (4 + 2 * 2, 10 + 2 * (5 + 6), 6)


def test_batch_a_is_of_the_size_that_its_bars_were_set_on() -> None:
    assert count_tokens(random_batch(SHAPES["A"], 4096, seed=0)).unique == pytest.approx(15_832, rel=0.03)


def test_a_bar_that_was_not_measured_is_missed() -> None:
    assert not Bar("speed", float("nan"), 1).passed
    assert not Bar("time", float("nan"), 1, at_least=False).passed
