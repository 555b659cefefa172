"""An 8-token forward_backward and its optim_step through the Tinker SDK, beside the same two calls on the HUD path.

Run under `headway up`, so that every process is the real one. The HUD path promotes: its answer means that the new
weights are served. The Tinker path does not, and is measured in three ways: each call after the answer of the one
before, both calls sent before either answer is read, and many steps queued ahead. The ways take turns, block by block,
so that a slow phase of the machine befalls all of them. Prints a table, then one JSON line.

    headway up --port 0 --base tiny-arith=… -- python -m bench.queued_step
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.figures import write_figures
from bench.small_step import connect, fork, promoted_step

_BLOCK = 10
"""Steps of one way before the next has its turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10)
    options = parser.parse_args()
    ways = _ways()
    for way in ways.values():
        way(options.warm_up)
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(1, options.steps // _BLOCK)):
        for name, way in ways.items():
            figures[name] += way(_BLOCK)
    _report(figures)


def _ways() -> dict[str, Callable[[int], list[float]]]:
    """Each takes a number of steps and returns the milliseconds that each took."""
    hud = connect()
    model_id = fork(hud)
    client = _TinkerClient()
    return {
        "hud": lambda num: [promoted_step(hud, model_id)["total_ms"] for _ in range(num)],
        "tinker, one by one": client.one_by_one,
        "tinker, both sent": client.both_sent,
        "tinker, queued": client.queued,
    }


class _TinkerClient:
    """One training run of the same LoRA shape as a HUD fork."""

    def __init__(self) -> None:
        import tinker

        self._types = tinker.types
        service = tinker.ServiceClient()
        self._run: Any = service.create_lora_training_client(
            base_model="tiny-arith", rank=16, seed=0, train_unembed=False
        )
        self._data = [self._datum(index) for index in range(2)]

    def one_by_one(self, num: int) -> list[float]:
        return [self._timed(lambda: (self._pass().result(), self._step().result())) for _ in range(num)]

    def both_sent(self, num: int) -> list[float]:
        def both() -> None:
            passed, stepped = self._pass(), self._step()
            passed.result()
            stepped.result()

        return [self._timed(both) for _ in range(num)]

    def queued(self, num: int) -> list[float]:
        def all_steps() -> None:
            for future in [call() for _ in range(num) for call in (self._pass, self._step)]:
                future.result()

        return [self._timed(all_steps) / num] * num

    def _pass(self) -> Any:
        return self._run.forward_backward(self._data, "importance_sampling")

    def _step(self) -> Any:
        return self._run.optim_step(self._types.AdamParams(learning_rate=1e-5, eps=1e-8))

    def _datum(self, index: int) -> Any:
        """As `bench.step_latency.BATCH`: 2 prompt and 2 sampled tokens, and the advantage that HUD's side computes."""
        tensor, advantage = self._types.TensorData, index - 0.5
        return self._types.Datum(
            model_input=self._types.ModelInput.from_ints([5, 6, 7]),
            loss_fn_inputs={
                "target_tokens": tensor(data=[6, 7, 8 + index], dtype="int64", shape=[3]),
                "logprobs": tensor(data=[0.0, -1.0, -1.5], dtype="float32", shape=[3]),
                "advantages": tensor(data=[0.0, advantage, advantage], dtype="float32", shape=[3]),
            },
        )

    def _timed(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3


def _report(figures: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"{'8 tokens, one step':22}{'median ms':>12}{'of hud':>10}")
    for name, median in medians.items():
        print(f"{name:22}{median:>12.1f}{median / medians['hud']:>10.2f}")
    rounded = {name: round(median, 2) for name, median in medians.items()}
    write_figures("queued_step", {"median_ms": rounded})


if __name__ == "__main__":
    main()
