"""First tokens behind screenshots: the local sampler against transformers' forward with the pixels of each prompt.

Random Qwen3-VL of 4M parameters (`bench.screen_base`); a rollout of six turns, of which the nth shows n screenshots of
1,000 tokens. In one process, on one thread of a CPU, processor seconds until the last turn's first token, variants
alternated, every round with pictures that none before it had:

    plain   transformers: a forward a turn, with the pixels of all its pictures, which were made before the clock ran
    ours    the local sampler, from the PNGs on: each picture goes through the tower once
    again   ours, of the same prompts once more, as the others of a group send them

Prompts are computed anew in each turn by all of them: what differs is the tower, and the order of sums. Every token's
logprob is checked against plain's.

`python -m bench.screen_turns`: a table and one JSON line, in about two minutes; `--quick` takes some seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from bench.clock import ratio, say, step_seconds
from bench.figures import write_figures
from bench.screen_base import PLACEHOLDER, ScreenBase
from bench.screens import ScreenBatch, Screens, screen_batch
from examples.tiny_base.tokenizer import build_tokenizer, save_tokenizer
from sampler.backends.local import LocalBackend, LocalSettings
from sampler.pictures.pixels import Pixels
from wire.media_items import media_items
from wire.process.collector import paused_collector
from wire.sampling import GenerateRequest, SamplingParams
from wire.trajectories import Turn

PLAIN, OURS, AGAIN = "plain", "ours", "again"
MAX_LOGPROB_ERROR = 1e-3
_ADAPTER = "base"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two turns, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = Screens(group_size=1)
    if options.quick:
        return run(ScreenBase(), replace(shape, num_turns=2), rounds=1, out=options.out)
    return run(ScreenBase(), shape, rounds=options.rounds, out=options.out)


def run(screen_base: ScreenBase, shape: Screens, *, rounds: int, out: Path | None = None) -> int:
    """Measure, print, and return the exit status: 1 if a logprob differs."""
    seconds: dict[str, list[float]] = {PLAIN: [], OURS: [], AGAIN: []}
    error = 0.0
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        base = screen_base.make(Path(folder))
        save_tokenizer(build_tokenizer(16384), base)
        plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
        with paused_collector():
            backend = LocalBackend(str(base), LocalSettings(seed=0, num_threads=1))
        backend.load_adapter(_ADAPTER, None)
        for index in range(-1, rounds):
            batch = screen_batch(shape, seed=index + 1)
            found = _round(plain, backend, Pixels(str(base)), batch, runner)
            error = max(error, found.pop("error"))
            if index >= 0:  # the first one has threads and kernels made
                for name, took in found.items():
                    seconds[name].append(took)
                say(f"  round {index + 1}/{rounds} {found}")
        runner.run(backend.close())
    _show(shape, seconds, error, out)
    return 0 if error <= MAX_LOGPROB_ERROR else 1


def _round(
    plain: PreTrainedModel, backend: LocalBackend, pixels: Pixels, batch: ScreenBatch, runner: asyncio.Runner
) -> dict[str, float]:
    turns = batch.batch.trajectories[0].turns
    inputs = [_plain_inputs(turn, pixels, batch) for turn in turns]
    logprobs = list[torch.Tensor]()
    sampled = list[list[tuple[int, float]]]()
    found = {PLAIN: step_seconds(lambda: logprobs.extend(_plain(plain, inputs)))}
    for name in (OURS, AGAIN):
        found[name] = step_seconds(lambda: sampled.append(runner.run(_first_tokens(backend, turns, batch))))
    errors = [
        abs(float(row_V[token]) - logprob)
        for answers in sampled
        for row_V, (token, logprob) in zip(logprobs, answers, strict=True)
    ]
    return {**found, "error": max(errors)}


def _plain_inputs(turn: Turn, pixels: Pixels, batch: ScreenBatch) -> dict[str, Any]:
    """What transformers takes of a turn's prompt."""
    made = [pixels.of(batch.pictures[item.digest], item.width, item.height) for item in turn.media]
    ids = torch.from_numpy(turn.prompt_ids).long()[None]
    joined = {name: torch.cat([one[name] for one in made]) for name in made[0]}
    return {"input_ids": ids, "mm_token_type_ids": (ids == PLACEHOLDER).int(), **joined}


def _plain(model: PreTrainedModel, inputs: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """[V] logprobs of each turn's first token."""
    with torch.inference_mode():
        return [model(**one, use_cache=False, logits_to_keep=1).logits[0, -1].log_softmax(-1) for one in inputs]


async def _first_tokens(backend: LocalBackend, turns: Sequence[Turn], batch: ScreenBatch) -> list[tuple[int, float]]:
    pictures = {digest.hex(): png for digest, png in batch.pictures.items()}
    found = list[tuple[int, float]]()
    for turn in turns:
        request = GenerateRequest(
            adapter=_ADAPTER,
            prompt_token_ids=turn.prompt_ids.tolist(),
            prompt_media=media_items(turn.media),
            params=SamplingParams(max_tokens=1),
        )
        async with aclosing(backend.generate(request, pictures)) as events:
            async for event in events:
                found += zip(event.tokens.ids, event.tokens.logprobs, strict=True)
    return found


def _show(shape: Screens, seconds: dict[str, list[float]], error: float, out: Path | None) -> None:
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    faster = {name: ratio(seconds[PLAIN], seconds[name]) for name in (OURS, AGAIN)}
    print(f"{shape.num_turns} turns, the nth with n screenshots of {shape.num_placeholders} tokens")
    for name, took in medians.items():
        times = "{median:>8.2f} ({min:.2f}–{max:.2f}) times faster".format(**faster[name]) if name in faster else ""
        print(f"{name:6}{took:>8.2f} s{times}")
    print(f"logprobs differ by {error:.1e} at most")
    rounded = {name: {kind: round(figure, 3) for kind, figure in times.items()} for name, times in faster.items()}
    figures = {"seconds": {name: round(took, 3) for name, took in medians.items()}, "times_faster": rounded}
    write_figures("screen_turns", {**figures, "turns": shape.num_turns, "logprob_error": error}, out)


if __name__ == "__main__":
    raise SystemExit(main())
