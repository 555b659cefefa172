"""How well a model reads: one answer a picture, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from examples.pictures.drawing import Drawing, score, split_numbers
from examples.tiny_eyes.chats import CHATS
from examples.tiny_eyes.inputs import LONGEST_ANSWER, Eyes
from examples.tiny_eyes.tokenizer import PICTURE, VIDEO

# B pictures, T tokens, V vocabulary

DRAWINGS_EACH = 4  # pictures of a number


def measure(model: Qwen3VLForConditionalGeneration, eyes: Eyes, seed: int = 0) -> dict[str, float]:
    """Mean reward at temperature 1, and of the most likely answer, in either form of chat."""
    training, held_out = split_numbers()
    figures: dict[str, float] = {}
    for form in CHATS:
        generator = torch.Generator().manual_seed(seed)
        figures |= {
            f"{form}_sampled_reward": mean_reward(model, eyes, form, training, generator),
            f"{form}_held_out_sampled_reward": mean_reward(model, eyes, form, held_out, generator),
            f"{form}_held_out_greedy_reward": mean_reward(model, eyes, form, held_out, None),
        }
    return figures


@torch.inference_mode()
def mean_reward(
    model: Qwen3VLForConditionalGeneration,
    eyes: Eyes,
    form: str,
    numbers: Sequence[int],
    generator: torch.Generator | None,
) -> float:
    """Over some pictures of each number: sampled at temperature 1, or greedily without a generator."""
    drawings = [Drawing(number, seed) for number in numbers for seed in range(DRAWINGS_EACH)]
    inputs: dict[str, Any] = eyes.inputs(form, [drawing.drawn() for drawing in drawings])
    prompt_length = inputs["input_ids"].shape[1]
    markers = eyes.tokenizer.convert_tokens_to_ids([PICTURE, VIDEO])
    for _ in range(LONGEST_ANSWER):
        logits_BV = model(**inputs, logits_to_keep=1).logits[:, -1]
        logits_BV[:, markers] = -torch.inf  # transformers would look for their pictures
        if generator is None:
            next_B1 = logits_BV.argmax(-1, keepdim=True)
        else:
            next_B1 = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], next_B1], dim=1)
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    answers = [_before_end(eyes, row) for row in inputs["input_ids"][:, prompt_length:].tolist()]
    return sum(map(score, drawings, answers)) / len(drawings)


def _before_end(eyes: Eyes, row: list[int]) -> str:
    end = row.index(eyes.tokenizer.eos_token_id) if eyes.tokenizer.eos_token_id in row else len(row)
    return str(eyes.tokenizer.decode(row[:end]))
