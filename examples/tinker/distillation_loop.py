"""On-policy distillation through the Tinker SDK: a student answers, a teacher says what it would have answered.

    source <data dir>/env
    python -m examples.tinker.distillation_loop --tokenizer <folder of the base> --teacher tinker://RUN/sampler_weights/NAME

The teacher scores the student's own answers: at every position its `--topk` likeliest tokens and their logprobs,
which become targets and weights (N, K) of a cross entropy. Where the student goes, it learns what the teacher would
have done there. Teacher and student are the base unless a checkpoint is named.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import tinker
import torch
from tinker import types

from examples.arithmetic.problems import split_problems
from examples.tinker.arguments import loop_parser
from examples.tinker.saving import save_final
from examples.tinker.sums import MAX_TOKENS, Sums

# A answer tokens, K likeliest tokens of the teacher


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer of the student, and what the teacher thinks of each of its tokens.

    targets_AK: token ids; weights_AK: their probabilities, which sum to 1 at each position; logprobs_A: of the tokens
    sampled, by the student; teacher_logprobs_A: of the same tokens, by the teacher.
    """

    prompt: list[int]
    answer: list[int]
    targets_AK: torch.Tensor
    weights_AK: torch.Tensor
    logprobs_A: torch.Tensor
    teacher_logprobs_A: torch.Tensor

    def datum(self) -> types.Datum:
        """Targets and weights are 0 on the prompt, which the SDK sends as sparse tensors."""
        tokens = [*self.prompt, *self.answer]
        padding = (0, 0, len(self.prompt) - 1, 0)
        inputs = {"target_tokens": self.targets_AK, "weights": self.weights_AK}
        return types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                name: types.TensorData.from_torch_sparse(torch.nn.functional.pad(values, padding))
                for name, values in inputs.items()
            },
        )


def main() -> None:
    args = parse_args()
    with tinker.ServiceClient() as service:
        student = start_student(service, args)
        teacher = start_teacher(service, args)
        sums = Sums.of(student, args.tokenizer)
        rng = random.Random(args.seed)
        for step in range(1, args.steps + 1):
            lessons = teach(student, teacher, sums, rng, args)
            forward, reverse = train_on(student, lessons, args.lr)
            print(
                f"step {step}/{args.steps}  kl(teacher|student) {forward:.4f}  kl(student|teacher) {reverse:.4f}",
                flush=True,
            )
        save_final(student)


def parse_args() -> argparse.Namespace:
    parser = loop_parser("distillation_loop", __doc__, steps=20, learning_rate=1e-3)
    parser.add_argument("--teacher", help="tinker:// path of sampler weights (default: the base)")
    parser.add_argument("--student", help="tinker:// path of a state to start from (default: the base)")
    parser.add_argument("--batch-size", type=int, default=32, help="answers a step")
    parser.add_argument("--topk", type=int, default=8, help="tokens of the teacher at each position")
    args = parser.parse_args()
    if args.teacher is None and args.student is None:
        parser.error("name a --teacher or a --student: the base has nothing to teach itself")
    return args


def start_student(service: tinker.ServiceClient, args: argparse.Namespace) -> tinker.TrainingClient:
    named = {"name": args.name}
    if args.student is not None:
        return service.create_training_client_from_state(args.student, user_metadata=named).result()
    return service.create_lora_training_client(
        args.base_model, rank=args.rank, seed=args.seed, user_metadata=named
    ).result()


def start_teacher(service: tinker.ServiceClient, args: argparse.Namespace) -> tinker.SamplingClient:
    if args.teacher is not None:
        return service.create_sampling_client(model_path=args.teacher).result()
    return service.create_sampling_client(base_model=args.base_model).result()


def teach(
    student: tinker.TrainingClient,
    teacher: tinker.SamplingClient,
    sums: Sums,
    rng: random.Random,
    args: argparse.Namespace,
) -> list[Lesson]:
    sampler = student.save_weights_and_get_sampling_client().result()
    prompts = [sums.prompt(problem) for problem in rng.sample(split_problems()[0], args.batch_size)]
    sampling = [
        sampler.sample(
            types.ModelInput.from_ints(prompt),
            num_samples=1,
            sampling_params=types.SamplingParams(max_tokens=MAX_TOKENS, seed=rng.getrandbits(31)),
        )
        for prompt in prompts
    ]
    answers = [future.result().sequences[0] for future in sampling]
    scoring = [
        teacher.sample(
            types.ModelInput.from_ints([*prompt, *answer.tokens]),
            num_samples=1,
            sampling_params=types.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=args.topk,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return [
        lesson(prompt, answer, future.result())
        for prompt, answer, future in zip(prompts, answers, scoring, strict=True)
    ]


def lesson(prompt: list[int], answer: types.SampledSequence, scored: types.SampleResponse) -> Lesson:
    """Row t of what the teacher scored is its opinion of token t, before it has seen that token."""
    topk, logprobs = scored.topk_prompt_logprobs_np, scored.prompt_logprobs_np
    assert topk is not None
    assert logprobs is not None
    return Lesson(
        prompt=prompt,
        answer=answer.tokens,
        targets_AK=torch.tensor(topk.token_ids[len(prompt) :], dtype=torch.int64),
        weights_AK=torch.tensor(topk.logprobs[len(prompt) :]).softmax(dim=1),
        logprobs_A=torch.tensor(answer.logprobs),
        teacher_logprobs_A=torch.tensor(logprobs[len(prompt) :]),
    )


def train_on(student: tinker.TrainingClient, lessons: list[Lesson], learning_rate: float) -> tuple[float, float]:
    """One step. Returns KL(teacher | student) over the teacher's likeliest tokens, and KL(student | teacher) as the
    sampled tokens estimate it, both before the step, in nats a token."""
    passing = student.forward_backward([each.datum() for each in lessons], "cross_entropy")
    stepping = student.optim_step(types.AdamParams(learning_rate=learning_rate))
    outputs = [output["logprobs"].to_torch() for output in passing.result().loss_fn_outputs]
    stepping.result()
    weights = torch.cat([each.weights_AK for each in lessons])
    student_logprobs = torch.cat([row[-len(each.answer) :] for each, row in zip(lessons, outputs, strict=True)])
    forward = (torch.special.xlogy(weights, weights) - weights * student_logprobs).sum(dim=1)
    reverse = torch.cat([each.logprobs_A - each.teacher_logprobs_A for each in lessons])
    return forward.mean().item(), reverse.mean().item()


if __name__ == "__main__":
    main()
