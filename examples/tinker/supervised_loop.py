"""Supervised training through the Tinker SDK: cross entropy on rightly answered sums, saved and resumed.

    source <data dir>/env
    python -m examples.tinker.supervised_loop --tokenizer <folder of the base> --steps 20

The loss counts the tokens of the answer alone: weights are 0 on the prompt and 1 on the answer. What was saved is
noted in `<out>/checkpoints.jsonl`; run again with the same folder, the loop goes on behind the last checkpoint, with
the moments of its optimizer, and does to the bit what it would have done without the break.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import tinker
from tinker import types

from examples.arithmetic.problems import split_problems
from examples.tinker.arguments import loop_parser
from examples.tinker.datums import completion_datum, completion_logprobs
from examples.tinker.sums import Sums


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tinker.ServiceClient() as service:
        training, first = start_or_resume(service, args)
        if first > args.steps:
            print(f"all {args.steps} steps are done: --steps goes further, another --out begins anew")
        sums = Sums.of(training, args.tokenizer)
        for step in range(first, args.steps + 1):
            nll = train_on_answers(training, sums, args, random.Random(f"{args.seed} {step}"))
            print(f"step {step}/{args.steps}  nll {nll:.6f}", flush=True)
            if step % args.save_every == 0 or step == args.steps:
                save(training, step, args.out)


def parse_args() -> argparse.Namespace:
    parser = loop_parser("supervised_loop", __doc__, steps=20, learning_rate=1e-3)
    parser.add_argument("--batch-size", type=int, default=32, help="answers a step")
    parser.add_argument("--out", type=Path, default=Path("demo-output/supervised"), help="folder for checkpoints.jsonl")
    parser.add_argument("--save-every", type=int, default=10, help="steps between checkpoints")
    return parser.parse_args()


def start_or_resume(service: tinker.ServiceClient, args: argparse.Namespace) -> tuple[tinker.TrainingClient, int]:
    """The client, and the step to begin with."""
    log: Path = args.out / "checkpoints.jsonl"
    named = {"name": args.name}
    if not log.exists():
        new = service.create_lora_training_client(args.base_model, rank=args.rank, seed=args.seed, user_metadata=named)
        return new.result(), 1
    saved = json.loads(log.read_text().splitlines()[-1])
    print(f"resuming {saved['state_path']}")
    resumed = service.create_training_client_from_state_with_optimizer(saved["state_path"], user_metadata=named)
    return resumed.result(), saved["step"] + 1


def train_on_answers(
    training: tinker.TrainingClient, sums: Sums, args: argparse.Namespace, rng: random.Random
) -> float:
    """One step on problems of its own. Returns the loss before it, in nats a token."""
    problems = rng.sample(split_problems()[0], args.batch_size)
    answers = [sums.answer(str(problem.answer)) for problem in problems]
    datums = [
        completion_datum(sums.prompt(problem), answer, weights=[1.0] * len(answer))
        for problem, answer in zip(problems, answers, strict=True)
    ]
    passing = training.forward_backward(datums, "cross_entropy")
    stepping = training.optim_step(types.AdamParams(learning_rate=args.lr))
    logprobs = completion_logprobs(passing.result(), answers)
    stepping.result()
    return -float(np.mean(np.concatenate(logprobs)))


def save(training: tinker.TrainingClient, step: int, out: Path) -> None:
    """The state to resume from, and the weights for a sampler; both are queued before either is waited for."""
    state = training.save_state(f"{step:06d}")
    weights = training.save_weights_for_sampler(f"{step:06d}")
    row = {"step": step, "state_path": state.result().path, "sampler_path": weights.result().path}
    with (out / "checkpoints.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    print(f"saved {row['state_path']} and {row['sampler_path']}")


if __name__ == "__main__":
    main()
