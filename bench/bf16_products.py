"""Products in bfloat16 beside float32's, in trainer and sampler: what they save, and what they cost in KL.

Of the tiny base of the demo, whose layers are too small to be multiplied so unless they are made to, and of
SmolLM2-135M, their weights rounded to bfloat16, under a random adapter, in one process, on one thread:

    KL       k3, and the mean difference in nats, of tokens that a sampler drew, between its logprobs and a trainer's:
             each of the two in float32 and in bf16
    speed    a pass, and answers of 1, 8 and 32 sequences: how many times longer float32 takes, round by round

Processor seconds, ways alternated. `python -m bench.bf16_products`; tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.batches import SHAPES, Shape
from bench.clock import alternate, ratio, say, step_seconds
from bench.figures import write_figures
from bench.policies import LOSS, MODEL, Policies, load_policies
from bench.sampling_rate import random_prompts, sample
from sampler.backends.local import LocalBackend, open_backend
from trainer.engine.base_model import load_base_model
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.conversion import to_datums
from wire.engine import LoraConfig
from wire.process import product_dtype
from wire.process.product_dtype import ProductDtype
from wire.trajectories import Batch, Trajectory, Turn

CACHE = Path(__file__).parents[1] / ".headway-cache"
BASES = {"tiny-arith": SHAPES["U"], "smollm2": Shape(2, 8, 1, prompt=(96, 129), output=(48, 65))}
"""With the batch of the pass that is measured."""
_ADAPTER = "adapter"


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Of one dtype of products."""

    engine: TrainingEngine
    backend: LocalBackend


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--answers", type=int, default=32, help="of which the KL is taken, 64 tokens each")
    parser.add_argument("--out", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with patch.object(product_dtype, "LEAST_WEIGHTS", 0):
        found = {name: _measure(name, options) for name in options.bases}
    write_figures("bf16_products", {"bases": found}, options.out)
    return 0


def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        base = stored_in_bf16(CACHE / name, Path(folder) / "base")
        policies = load_policies(base, Path(folder) / "policies", LoraConfig(), EngineSettings(threads=1))
        planes = {dtype: open_planes(base, policies.lora, policies.folder, dtype) for dtype in ProductDtype}
        vocab_size = int(policies.config.vocab_size)
        kl = _kl(planes, random_prompts(vocab_size, options.answers, 16))
        passes = _passes(planes, policies, BASES[name], options.rounds)
        answers = {
            number: _ratio_of(_answers(planes, random_prompts(vocab_size, number, 32), options.rounds))
            for number in options.sequences
        }
        for each in planes.values():
            asyncio.run(each.backend.close())
    figures = {"kl": kl, "pass": passes, "sampling": answers}
    _print(name, figures)
    return figures


def stored_in_bf16(base: Path, folder: Path) -> Path:
    """The folder, with the base in it."""
    if not (base / "config.json").exists():
        raise SystemExit(f"{base} is not there: make {base.relative_to(CACHE.parent)}/config.json")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def open_planes(base: Path, lora: LoraConfig, adapter: Path | None, dtype: ProductDtype) -> Planes:
    """adapter: None for a fresh one, and none in the sampler."""
    model = load_base_model(str(base), products=dtype)
    engine = TrainingEngine(model, EngineSettings(threads=1))
    engine.open(MODEL, lora, adapter, None)
    backend = open_backend(str(base), num_threads=1, products=dtype)
    if adapter is not None:
        backend.load_adapter(_ADAPTER, adapter)
    assert model.product_dtype == backend.details.products == dtype, f"nothing here multiplies in {dtype}"
    return Planes(engine, backend)


def _kl(planes: Mapping[ProductDtype, Planes], prompts: Sequence[list[int]]) -> list[dict[str, Any]]:
    """For each sampler and each trainer."""
    rows = list[dict[str, Any]]()
    drawn = {dtype: sample(each.backend, _ADAPTER, prompts, 64) for dtype, each in planes.items()}
    for (sampler, answers), (trainer, each) in itertools.product(drawn.items(), planes.items()):
        turns = [
            Turn(np.array(prompt, np.int32), np.array(ids, np.int32), np.array(logprobs, np.float32))
            for prompt, (ids, logprobs) in zip(prompts, answers, strict=True)
        ]
        datums = to_datums(Batch([Trajectory((turn,), 1.0) for turn in turns]))
        say(f"  scoring what a sampler in {sampler} drew in {trainer}")
        scored = each.engine.forward(MODEL, datums)
        log_ratios = np.concatenate([(row.logprobs - row.sampling_logprobs)[row.mask > 0] for row in scored])
        rows.append({"sampler": sampler.value, "trainer": trainer.value, **_k3(log_ratios.astype(np.float64))})
    return rows


def _k3(log_ratios: np.ndarray) -> dict[str, float]:
    k3 = np.exp(log_ratios) - 1 - log_ratios
    return {
        "k3": float(k3.mean()),
        "mean_nats": float(np.abs(log_ratios).mean()),
        "max_nats": float(np.abs(log_ratios).max()),
    }


def _passes(
    planes: Mapping[ProductDtype, Planes], policies: Policies, shape: Shape, rounds: int
) -> dict[str, dict[str, float]]:
    """Of a batch, and of two of its trajectories."""
    batch = policies.batch(shape, seed=0)
    few = Batch(batch.trajectories[:2], group_size=2)
    found = dict[str, dict[str, float]]()
    for name, each in {"batch": to_datums(batch), "two trajectories": to_datums(few)}.items():
        ways = {
            dtype.value: lambda engine=of.engine, datums=each: engine.forward_backward(MODEL, datums, LOSS)
            for dtype, of in planes.items()
        }
        found[name] = _ratio_of(alternate(ways, rounds + 1, step_seconds))
    return found


def _answers(
    planes: Mapping[ProductDtype, Planes], prompts: Sequence[list[int]], rounds: int
) -> Mapping[str, list[float]]:
    ways = {
        dtype.value: lambda backend=each.backend: sample(backend, _ADAPTER, prompts, 32)
        for dtype, each in planes.items()
    }
    return alternate(ways, rounds + 1, step_seconds)


def _ratio_of(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The first round, in which kernels are made, is left out."""
    exact, rounded = (seconds[dtype.value][1:] for dtype in (ProductDtype.FLOAT32, ProductDtype.BF16))
    return {"float32_s": statistics.median(exact), "bf16_s": statistics.median(rounded), **ratio(exact, rounded)}


def _print(name: str, figures: Mapping[str, Any]) -> None:
    print(f"\n{name:12}{'trainer in':>12}{'k3':>12}{'mean, nats':>14}{'most':>10}")
    for row in figures["kl"]:
        print("{sampler:>12}{trainer:>12}{k3:>12.1e}{mean_nats:>14.1e}{max_nats:>10.1e}".format(**row))
    lines = {f"a pass, {what}": of for what, of in figures["pass"].items()}
    lines |= {f"{number} answers": of for number, of in figures["sampling"].items()}
    for what, of in lines.items():
        print("{:28}float32 {float32_s:7.3f} s, {median:.2f}× bf16 ({min:.2f}–{max:.2f})".format(what, **of))


if __name__ == "__main__":
    sys.exit(main())
