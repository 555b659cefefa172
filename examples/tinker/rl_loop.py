"""Reinforcement learning through the Tinker SDK: GRPO on two-digit sums, from which the tiny base climbs.

    source <data dir>/env
    python -m examples.tinker.rl_loop --tokenizer <folder of the base> --steps 30

Each step saves the weights for a sampler, asks it `--groups` problems `--group-size` times each, and trains on the
answers. The advantage of an answer is its reward less the mean of its group; a group whose rewards are all equal
teaches nothing and is left out.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import tinker
from tinker import types

from examples.arithmetic.problems import Problem, split_problems
from examples.tinker.arguments import loop_parser
from examples.tinker.datums import completion_datum, completion_logprobs
from examples.tinker.saving import save_final
from examples.tinker.sums import MAX_TOKENS, Sums


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer. logprobs: of the policy that sampled it, nats."""

    prompt: list[int]
    answer: list[int]
    logprobs: list[float]
    reward: float


def main() -> None:
    args = parse_args()
    with tinker.ServiceClient() as service:
        training = service.create_lora_training_client(
            args.base_model, rank=args.rank, seed=args.seed, user_metadata={"name": args.name}
        ).result()
        train(training, Sums.of(training, args.tokenizer), args)
        save_final(training)


def parse_args() -> argparse.Namespace:
    parser = loop_parser("rl_loop", __doc__, steps=30, learning_rate=7e-4)
    parser.add_argument("--groups", type=int, default=8, help="problems a step")
    parser.add_argument("--group-size", type=int, default=8, help="answers a problem")
    parser.add_argument("--loss", default="importance_sampling", choices=("importance_sampling", "ppo", "cispo"))
    return parser.parse_args()


def train(training: tinker.TrainingClient, sums: Sums, args: argparse.Namespace) -> None:
    problems, _ = split_problems()
    rng = random.Random(args.seed)
    for step in range(1, args.steps + 1):
        started = time.monotonic()
        sampler = training.save_weights_and_get_sampling_client().result()
        groups = roll_out(sampler, sums, rng.sample(problems, args.groups), args.group_size, rng)
        reward = fmean(rollout.reward for group in groups for rollout in group)
        kl = train_on(training, groups, args.loss, args.lr)
        print(
            f"step {step}/{args.steps}  reward {reward:.3f}  kl {kl:.1e}  {time.monotonic() - started:.1f} s",
            flush=True,
        )


def roll_out(
    sampler: tinker.SamplingClient, sums: Sums, problems: list[Problem], group_size: int, rng: random.Random
) -> list[list[Rollout]]:
    """All groups are sampled at once."""
    prompts = [sums.prompt(problem) for problem in problems]
    sampled = [
        sampler.sample(
            types.ModelInput.from_ints(prompt),
            num_samples=group_size,
            sampling_params=types.SamplingParams(max_tokens=MAX_TOKENS, seed=rng.getrandbits(31)),
        )
        for prompt in prompts
    ]
    return [
        [
            Rollout(prompt, answer.tokens, answer.logprobs or [], sums.reward(problem, answer.tokens))
            for answer in future.result().sequences
        ]
        for problem, prompt, future in zip(problems, prompts, sampled, strict=True)
    ]


def train_on(
    training: tinker.TrainingClient, groups: list[list[Rollout]], loss: types.LossFnType, learning_rate: float
) -> float:
    """One step. Returns how far the trainer is from the sampler of these answers: the mean of q - p, 0 on policy."""
    rollouts: list[Rollout] = []
    datums: list[types.Datum] = []
    for group in groups:
        baseline = fmean(rollout.reward for rollout in group)
        if all(rollout.reward == baseline for rollout in group):
            continue
        rollouts += group
        datums += [advantage_datum(rollout, rollout.reward - baseline) for rollout in group]
    if not datums:
        return 0.0
    passing = training.forward_backward(datums, loss)
    stepping = training.optim_step(types.AdamParams(learning_rate=learning_rate))
    trained = completion_logprobs(passing.result(), [rollout.answer for rollout in rollouts])
    stepping.result()
    return float(np.mean(np.concatenate([rollout.logprobs for rollout in rollouts]) - np.concatenate(trained)))


def advantage_datum(rollout: Rollout, advantage: float) -> types.Datum:
    """The same advantage for every token of an answer."""
    advantages = [advantage] * len(rollout.answer)
    return completion_datum(rollout.prompt, rollout.answer, logprobs=rollout.logprobs, advantages=advantages)


if __name__ == "__main__":
    main()
