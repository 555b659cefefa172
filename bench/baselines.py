"""The same gradient by other means, each a step that leaves it in the policy's parameters.

All keep full logits, for that is what code on top of transformers does; micro-batches of eight rows bound their
memory. Tensors are made before the clock runs.
"""

# R rows, T tokens of a row, S = T - 1 predictions, V vocabulary, N action tokens

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel

from bench.block_diagonal import IMPLEMENTATION
from bench.policies import Gradients
from bench.rows import ROWS_AT_ONCE, Padded, Row, in_micro_batches, merged_rows, pad, ppo_cost, turn_rows
from wire.trajectories import Batch

Step = Callable[[], None]


def a_row_a_turn(policy: PeftModel, batch: Batch, rows_at_once: int = ROWS_AT_ONCE) -> Step:
    """(a) A padded row a turn."""
    return _padded_step(policy, turn_rows(batch, policy.device), rows_at_once)


def merged(policy: PeftModel, batch: Batch, rows_at_once: int = ROWS_AT_ONCE) -> Step:
    """(b) A padded row a trajectory, its turns merged."""
    return _padded_step(policy, merged_rows(batch, policy.device), rows_at_once)


def packed(policy: PeftModel, batch: Batch, rows_at_once: int = ROWS_AT_ONCE) -> Step:
    """(c) Merged, and packed without padding: attention is block-diagonal, one causal kernel a sequence."""
    assert policy.config._attn_implementation == IMPLEMENTATION
    micro_batches = list(in_micro_batches(merged_rows(batch, policy.device), rows_at_once))

    def step() -> None:
        for rows in micro_batches:
            _packed_cost(policy, rows).backward()

    return step


def padded_tokens(rows: list[Row], rows_at_once: int = ROWS_AT_ONCE) -> int:
    """What a padded variant computes."""
    return sum(pad(part).ids_RT.numel() for part in in_micro_batches(rows, rows_at_once))


def padded_cost(policy: PeftModel, rows: Padded, **seen: torch.Tensor) -> torch.Tensor:
    """PPO's, summed over rows. seen: what the model takes beside tokens."""
    logits_RTV = policy(input_ids=rows.ids_RT, attention_mask=rows.mask_RT, use_cache=False, **seen).logits
    logprobs_RSV = logits_RTV[:, :-1].log_softmax(-1)
    logprobs_RS = logprobs_RSV.gather(-1, rows.ids_RT[:, 1:, None])[..., 0]
    at_RS = rows.is_action_RT[:, 1:]
    return ppo_cost(logprobs_RS[at_RS], rows.sampling_logprobs_RT[:, 1:][at_RS], rows.advantages_RT[:, 1:][at_RS])


def gradients(policy: PeftModel, step: Step) -> Gradients:
    """Of one step from zero, by the names that PEFT saves tensors under; the policy is left without."""
    policy.zero_grad()
    step()
    found = {n.replace(".default.", "."): p.grad for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return found


def worst_relative_error(found: Gradients, expected: Gradients) -> float:
    """Over LoRA tensors, in the 2-norm."""
    assert found.keys() == expected.keys(), "the variants adapt different layers"
    return max(float((found[n].cpu() - expected[n].cpu()).norm() / expected[n].cpu().norm()) for n in expected)


def _padded_step(policy: PeftModel, rows: list[Row], rows_at_once: int) -> Step:
    micro_batches = [pad(part) for part in in_micro_batches(rows, rows_at_once)]

    def step() -> None:
        for padded in micro_batches:
            padded_cost(policy, padded).backward()

    return step


def _packed_cost(policy: PeftModel, rows: Sequence[Row]) -> torch.Tensor:
    lengths = tuple(len(row.ids_T) - 1 for row in rows)
    logits_TV = policy(
        input_ids=torch.cat([row.ids_T[:-1] for row in rows])[None],
        position_ids=torch.cat([torch.arange(length, device=policy.device) for length in lengths])[None],
        attention_mask=None,
        use_cache=False,
        sequence_lengths=lengths,
    ).logits[0]
    targets_T = torch.cat([row.ids_T[1:] for row in rows])
    logprobs_T = logits_TV.log_softmax(-1).gather(-1, targets_T[:, None])[:, 0]
    at_T = torch.cat([row.is_action_T[1:] for row in rows])
    sampling_T = torch.cat([row.sampling_logprobs_T[1:] for row in rows])
    advantages_T = torch.cat([row.advantages_T[1:] for row in rows])
    return ppo_cost(logprobs_T[at_T], sampling_T[at_T], advantages_T[at_T])
