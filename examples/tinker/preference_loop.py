"""Preferences through the Tinker SDK: direct preference optimization (DPO, arXiv:2305.18290) by a loss of our own.

    source <data dir>/env
    python -m examples.tinker.preference_loop --tokenizer <folder of the base> --steps 20

Of each pair the right sum is preferred to the answer that the tiny base likes best, "?". `forward_backward_custom`
computes logprobs at the server, the loss and its gradient here, and sends the gradient back. The reference policy is
the base itself, which scores both answers by `compute_logprobs`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass

import tinker
import torch
from tinker import types

from examples.arithmetic.problems import split_problems
from examples.tinker.arguments import loop_parser
from examples.tinker.datums import completion_datum
from examples.tinker.saving import save_final
from examples.tinker.sums import Sums

REJECTED = "?"

Loss = Callable[[list[types.Datum], list[torch.Tensor]], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One side of a pair."""

    prompt: list[int]
    tokens: list[int]

    def datum(self) -> types.Datum:
        return completion_datum(self.prompt, self.tokens)


def main() -> None:
    args = parse_args()
    with tinker.ServiceClient() as service:
        training = service.create_lora_training_client(
            args.base_model, rank=args.rank, seed=args.seed, user_metadata={"name": args.name}
        ).result()
        reference = service.create_sampling_client(base_model=args.base_model).result()
        sums = Sums.of(training, args.tokenizer)
        rng = random.Random(args.seed)
        for step in range(1, args.steps + 1):
            metrics = train_on_pairs(training, reference, draw_pairs(sums, rng, args.pairs), args)
            shown = "  ".join(f"{name} {metrics[f'{name}:mean']:.4f}" for name in ("loss", "margin", "accuracy"))
            print(f"step {step}/{args.steps}  {shown}", flush=True)
        save_final(training)


def parse_args() -> argparse.Namespace:
    parser = loop_parser("preference_loop", __doc__, steps=20, learning_rate=1e-3)
    parser.add_argument("--pairs", type=int, default=16, help="pairs a step")
    parser.add_argument("--beta", type=float, default=0.1, help="how strongly the reference holds")
    return parser.parse_args()


def draw_pairs(sums: Sums, rng: random.Random, num_pairs: int) -> list[Answer]:
    """Chosen and rejected by turns: [chosen 0, rejected 0, chosen 1, ...]."""
    return [
        Answer(sums.prompt(problem), sums.answer(text))
        for problem in rng.sample(split_problems()[0], num_pairs)
        for text in (str(problem.answer), REJECTED)
    ]


def train_on_pairs(
    training: tinker.TrainingClient, reference: tinker.SamplingClient, answers: list[Answer], args: argparse.Namespace
) -> dict[str, float]:
    loss = dpo_loss(answers, reference_logprobs(reference, answers), args.beta)
    passing = training.forward_backward_custom([answer.datum() for answer in answers], loss)
    stepping = training.optim_step(types.AdamParams(learning_rate=args.lr))
    stepping.result()
    return passing.result().metrics


def reference_logprobs(reference: tinker.SamplingClient, answers: list[Answer]) -> torch.Tensor:
    """log p of each answer under the reference, (answers,)."""
    scoring = [reference.compute_logprobs(types.ModelInput.from_ints([*a.prompt, *a.tokens])) for a in answers]
    scored = [future.result()[-len(answer.tokens) :] for answer, future in zip(answers, scoring, strict=True)]
    return torch.tensor([sum(logprob or 0.0 for logprob in logprobs) for logprobs in scored])


def dpo_loss(answers: list[Answer], reference: torch.Tensor, beta: float) -> Loss:
    """-log sigmoid(beta * margin), summed over pairs. The margin is by how much more than the reference the policy
    prefers the chosen answer, in nats."""

    def loss(_: list[types.Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        policy = torch.stack([row[-len(answer.tokens) :].sum() for answer, row in zip(answers, logprobs, strict=True)])
        chosen, rejected = (policy - reference).view(-1, 2).unbind(1)
        margins = chosen - rejected
        losses = -torch.nn.functional.logsigmoid(beta * margins)
        return losses.sum(), {
            "loss:mean": losses.mean().item(),
            "margin:mean": margins.mean().item(),
            "accuracy:mean": (margins > 0).float().mean().item(),
        }

    return loss


if __name__ == "__main__":
    main()
