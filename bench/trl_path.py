"""TRL's GRPO loss on the same rows: its own trainer object, with generation taken out.

The prompt is padded on the left and the completion on the right to the longest of the micro-batch; what a completion
holds besides sampled tokens is masked as the results of tools are. Its head never makes full logits, and gradient
checkpointing, which is on by default and would slow it, is off.
"""

# R rows, P prompt tokens, C completion tokens

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from bench.baselines import Step
from bench.rows import CLIP, ROWS_AT_ONCE, Row, in_micro_batches, turn_rows
from wire.trajectories import Batch

Cost = Callable[[], torch.Tensor]


def trl_step(policy: PeftModel, batch: Batch, rows_at_once: int = ROWS_AT_ONCE) -> Step:
    """On a row a turn, as it would get them from its own rollouts."""
    costs = trl_costs(policy, turn_rows(batch, policy.device), rows_at_once)

    def step() -> None:
        for cost in costs:
            cost().backward()

    return step


def trl_costs(policy: PeftModel, rows: Sequence[Row], rows_at_once: int = ROWS_AT_ONCE) -> list[Cost]:
    """The cost of each micro-batch, summed over its sampled tokens.

    Its loss is a mean over the rows and the longest completion allowed; the sum that others compute is that mean times
    both.
    """
    longest = max(len(row.ids_T) - row.num_prompt for row in rows)
    trainer = _trainer(policy, longest, rows_at_once)
    policy.eval()  # no dropout is configured; in this mode its loss is not divided for accumulation

    def cost(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return trainer.compute_loss(policy, inputs) * inputs["prompt_ids"].shape[0] * longest

    return [functools.partial(cost, _inputs(part)) for part in in_micro_batches(rows, rows_at_once)]


def _trainer(policy: PeftModel, longest: int, rows_at_once: int) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.gettempdir(),
        loss_type="dr_grpo",
        epsilon=1 - CLIP[0],
        epsilon_high=CLIP[1] - 1,
        max_completion_length=longest,
        per_device_train_batch_size=rows_at_once,
        num_generations=rows_at_once,
        gradient_checkpointing=False,
        use_cpu=policy.device.type == "cpu",
        bf16=False,
        report_to=[],
    )
    return GRPOTrainer(
        model=policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["0"] * rows_at_once}),
        processing_class=_tokenizer(),
    )


def _inputs(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    prompts, completions = ([part[i] for part in map(_split, rows)] for i in range(2))
    return {
        "prompt_ids": pad_sequence(prompts, batch_first=True, padding_side="left"),
        "prompt_mask": pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left"),
        "completion_ids": pad_sequence(completions, batch_first=True),
        "completion_mask": pad_sequence([torch.ones_like(c) for c in completions], batch_first=True),
        "tool_mask": pad_sequence([r.is_action_T[r.num_prompt :].long() for r in rows], batch_first=True),
        "old_per_token_logps": pad_sequence([r.sampling_logprobs_T[r.num_prompt :] for r in rows], batch_first=True),
        "advantages": torch.stack([row.advantages_T[-1] for row in rows]),
    }


def _split(row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    return row.ids_T[: row.num_prompt], row.ids_T[row.num_prompt :]


def _tokenizer() -> PreTrainedTokenizerFast:
    # It asks for one, and reads nothing from it but the ids of padding and end.
    vocabulary = models.WordLevel({"0": 0, "1": 1}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), eos_token="1", pad_token="1", unk_token="0")
