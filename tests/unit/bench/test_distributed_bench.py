"""The benchmark of ranks runs, counts what is moved, and its model of cost is the arithmetic that it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.batches import Shape, count_tokens, random_batch
from bench.distributed import H200_TOKENS, MEASURED, ON_H200, OTHER, measure, on_h200
from bench.distributed_rank import SETTINGS
from bench.flops import useful_flops
from bench.models import build_model
from bench.pass_cost import H200, Machine, TurnWork, even_work, exchanged_bytes, pass_cost, work_of
from cli.sizing.counting import count_base, count_preset
from tests.unit.bench.test_bench import TINY, TREE
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import TrainingEngine
from wire.conversion import to_datums
from wire.engine import LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore")
SIZING = Path(__file__).parents[3] / "docs/sizing.md"
SHAPES = {OTHER: Shape(2, 4, 1, prompt=(8, 13), output=(2, 6)), MEASURED: TREE}
EXACT = Machine(flops_per_s=1.0, gather_bytes_per_s=1.0, exchange_bytes_per_s=1.0)


@pytest.mark.slow
def test_two_ranks_end_in_the_bits_of_one_and_move_no_byte_more_than_they_must(capfd: pytest.CaptureFixture[str]):
    assert measure(TINY, SHAPES, rounds=1) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert figures["equal_bits"]
    for name in ("weights", "all_to_all_single"):
        assert figures["collectives"][name]["received_bytes"] == figures["collectives"][name]["least_bytes"] > 0
    assert 0 <= figures["collectives"]["gathers_overlapped"] <= 1
    assert {(each["base"], each["gpus"]) for each in figures["h200"]} >= {("qwen3-32b", 8), ("llama-3.3-70b", 4)}


def test_counted_flops_are_those_of_the_engines_bench():
    counts, lora = count_base("tiny", TINY, 4, torch.float32), LoraConfig(rank=4)
    batch = random_batch(TREE, TINY.vocab_size, 0)
    engine = TrainingEngine(BaseModel(build_model(TINY)), SETTINGS)
    datums = to_datums(batch)
    plan = engine.plan(datums)
    work = work_of(replace(plan, kernel="dense"), datums, 1)
    cost = pass_cost(counts, 4, work, len(plan.shards), EXACT, recompute=False)
    assert cost.seconds == pytest.approx(useful_flops(TINY, lora, count_tokens(batch)), rel=0.01)


def test_a_pass_waits_for_the_first_gather_and_for_what_computing_does_not_cover():
    counts = count_base("tiny", TINY, 4, torch.float32)
    layer = counts.largest_layer * 4 / 2
    embedding = head = counts.unembedding_gathered * 4 / 2
    assert counts.embedding_gathered == counts.unembedding_gathered == TINY.vocab_size * TINY.hidden_size
    slow, fast = replace(EXACT, flops_per_s=1e-6), replace(EXACT, flops_per_s=1e30)
    work = even_work(64, 32, turns=3, ranks=2)
    waited = {
        name: pass_cost(counts, 4, work, 8, machine, recompute=False).gather_s
        for name, machine in {"hidden": slow, "bare": fast, "one at a time": replace(slow, overlaps=False)}.items()
    }
    layers = len(counts.layers)
    assert waited == {
        "hidden": pytest.approx(3 * (2 * layer + embedding + head)),
        "bare": pytest.approx(3 * (2 * layer * layers + embedding + head)),
        "one at a time": pytest.approx(3 * (2 * layer * layers + embedding + head)),
    }


def test_ranks_share_the_turns_and_the_slowest_decides():
    counts = count_base("tiny", TINY, 4, torch.float32)

    def seconds(work: list[list[TurnWork]]) -> float:
        cost = pass_cost(counts, 4, work, 8, EXACT, recompute=False)
        return cost.forward_s + cost.backward_s

    one, two = even_work(64, 32, turns=4, ranks=1), even_work(64, 32, turns=2, ranks=2)
    assert seconds(two) == pytest.approx(seconds(one) / 2)
    idle = [[*turn, TurnWork(0, 0, 0)] for turn in one]
    assert seconds(idle) == pytest.approx(seconds(one))


@pytest.mark.parametrize(("ranks", "in_parameters"), [(1, 0.0), (2, 2.5), (4, 2.25), (8, 14 / 8)])
def test_each_rank_gets_its_slice_of_every_shard_and_all_slices_of_the_sum(ranks: int, in_parameters: float):
    assert exchanged_bytes(1000, 8, ranks) == 4 * 1000 * in_parameters


def test_layers_that_are_computed_twice_cost_their_forward_once_more():
    counts = count_preset("qwen3-8b", 32)
    work = even_work(1000, 1000, turns=1, ranks=1)
    once, twice = (pass_cost(counts, 32, work, 8, H200, recompute=on) for on in (False, True))
    head_s = 4 * 151936 * 4096 * 1000 / H200.flops_per_s
    assert twice.backward_s - once.backward_s == pytest.approx(once.forward_s - head_s)


def test_the_page_has_the_rates_that_the_model_gives() -> None:
    rows = [
        line.split("|")[1:-1]
        for line in SIZING.read_text().splitlines()
        if line.startswith(("| 8B |", "| 32B |", "| 70B |"))
    ]
    found = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}
    for name, sizes in ON_H200:
        counts = count_preset(name, 32)
        rates = {size: f"{round(H200_TOKENS / on_h200(counts, size).seconds, -2):,.0f}" for size in sizes}
        (row,) = [cells for base, cells in found.items() if name.endswith(base.lower())]
        assert row == [rates.get(size, "") for size in (1, 4, 8)]
