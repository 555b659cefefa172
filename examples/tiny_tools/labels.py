"""Which tokens of a chat are learned: what the assistant wrote."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

# B batch, T tokens

IGNORED = -100  # label of a token that is not learned


def labels_of(tokenizer: PreTrainedTokenizerFast, input_BT: torch.Tensor) -> torch.Tensor:
    """labels_BT at the same positions."""
    return torch.where(_written(tokenizer, input_BT), input_BT, IGNORED)


def _written(tokenizer: PreTrainedTokenizerFast, input_BT: torch.Tensor) -> torch.Tensor:
    """Where the assistant wrote: behind `<|im_start|>assistant` and a newline, up to and with the end of the turn."""
    start, assistant, newline = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    written_BT = torch.zeros_like(input_BT, dtype=torch.bool)
    opens_BT = torch.zeros_like(written_BT)
    opens_BT[:, 3:] = (input_BT[:, :-3] == start) & (input_BT[:, 1:-2] == assistant) & (input_BT[:, 2:-1] == newline)
    within_B = torch.zeros(len(input_BT), dtype=torch.bool)
    for at in range(input_BT.shape[1]):
        within_B = within_B | opens_BT[:, at]
        written_BT[:, at] = within_B
        within_B = within_B & (input_BT[:, at] != tokenizer.eos_token_id)
    return written_BT
