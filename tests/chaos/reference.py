"""What a checkpoint's files say about a sampled answer, by transformers and PEFT alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def largest_difference(base: Path, checkpoints: Path, answers: Iterable[tuple[str | None, dict[str, Any]]]) -> float:
    """Between the logprobs that came with answers, (checkpoint id, choice), and those of the checkpoints' own forward
    passes. None: the base weights."""
    by_checkpoint: dict[str | None, list[dict[str, Any]]] = {}
    for checkpoint, choice in answers:
        by_checkpoint.setdefault(checkpoint, []).append(choice)
    worst = 0.0
    for checkpoint, choices in by_checkpoint.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if checkpoint is not None:
            model = PeftModel.from_pretrained(model, str(checkpoints / UUID(checkpoint).hex / "adapter"))
        for choice in choices:
            worst = max(worst, _difference(model.eval(), choice))
    return worst


def _difference(model: Any, choice: dict[str, Any]) -> float:
    prompt, sampled = choice["prompt_token_ids"], choice["token_ids"]
    claimed = torch.tensor([token["logprob"] for token in choice["logprobs"]["content"]])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *sampled]])).logits[0].float()
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    own = logprobs.gather(1, torch.tensor(sampled)[:, None])[:, 0]
    return float((own - claimed).abs().max())
