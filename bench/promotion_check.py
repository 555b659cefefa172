"""Logprobs of answers anew, from the files of the checkpoint that each names, by transformers and PEFT alone.

In float64, so that what differs is the sampler's own error.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bench.promotion_clients import Answer
from wire.process.threads import threads_for

# B answers of a batch, S positions, V vocabulary

_BATCH = 64
_Compared = tuple[torch.Tensor, torch.Tensor]
"""Absolute differences, and the sampler's logprobs, of one answer's tokens."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """|the sampler's logprob − the forward pass's| over all sampled tokens, in nats.

    logprob_of_largest: of the token with the largest difference; what is unlikely is computed less exactly.
    under_parent: the same for the checkpoint before the one that an answer names, as largest difference of an answer
    (its median): what an answer by stale weights would have looked like.
    told_apart: share of answers that the parent's weights would have put over the limit.
    """

    tokens: int
    answers: int
    checkpoints: int
    largest: float
    logprob_of_largest: float
    mean: float
    over_limit: int
    under_parent: float
    told_apart: float


def check_answers(
    base: Path, adapters: Mapping[str | None, Path | None], answers: Sequence[Answer], limit: float
) -> Agreement:
    """`adapters` are the folders of the checkpoints by id, in the order in which they were promoted; None is the base
    itself. Every answer is recomputed."""
    by_checkpoint: dict[str | None, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_checkpoint[answer.checkpoint].append(answer)
    torch.set_num_threads(threads_for(sum(file.stat().st_size for file in base.glob("*.safetensors")) // 4))
    policy = _Policy(base, next(path for path in adapters.values() if path is not None))
    differences, stale, parent = list[_Compared](), list[_Compared](), None
    for checkpoint, folder in adapters.items():
        named = by_checkpoint.pop(checkpoint, [])
        if checkpoint is not None and named:
            policy.load(parent)
            stale += policy.differences(named)
        policy.load(folder)
        differences += policy.differences(named)
        parent = folder
    assert not by_checkpoint, f"answers name checkpoints that nobody made: {list(by_checkpoint)}"
    all_differences, sampled = (
        torch.cat([each[0] for each in differences]),
        torch.cat([each[1] for each in differences]),
    )
    worst_if_stale = torch.stack([each.max() for each, _ in stale])
    return Agreement(
        tokens=all_differences.numel(),
        answers=len(answers),
        checkpoints=len({answer.checkpoint for answer in answers}),
        largest=float(all_differences.max()),
        logprob_of_largest=float(sampled[all_differences.argmax()]),
        mean=float(all_differences.mean()),
        over_limit=int((~(all_differences <= limit)).sum()),
        under_parent=float(worst_if_stale.median()),
        told_apart=float((worst_if_stale > limit).float().mean()),
    )


class _Policy:
    """The base with one adapter after the other, all of one shape."""

    def __init__(self, base: Path, adapter: Path) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        shape = {name: config[name] for name in ("r", "lora_alpha", "target_modules", "use_rslora")}
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        self._model: PeftModel = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **shape)).double().eval()

    def load(self, adapter: Path | None) -> None:
        if adapter is None:
            for name, parameter in self._model.named_parameters():
                if "lora_" in name:
                    parameter.data.zero_()
            return
        outcome = set_peft_model_state_dict(self._model, load_file(adapter / "adapter_model.safetensors"))
        assert not outcome.unexpected_keys, outcome.unexpected_keys
        assert not [key for key in outcome.missing_keys if "lora_" in key], outcome.missing_keys

    def differences(self, answers: Sequence[Answer]) -> list[_Compared]:
        """One an answer."""
        ordered = sorted(answers, key=lambda answer: len(answer.prompt_ids) + len(answer.token_ids))
        found = list[_Compared]()
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            rows = [torch.tensor([*answer.prompt_ids, *answer.token_ids]) for answer in batch]
            ids_BS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # what follows a token changes nothing
            with torch.no_grad():
                logprobs_BSV = self._model(input_ids=ids_BS[:, :-1]).logits.log_softmax(-1)
            logprobs_BS = logprobs_BSV.gather(-1, ids_BS[:, 1:, None]).squeeze(-1)
            for row, answer in zip(logprobs_BS, batch, strict=True):
                start_of_answer = len(answer.prompt_ids) - 1
                computed = row[start_of_answer : start_of_answer + len(answer.token_ids)]
                sampled = torch.tensor(answer.logprobs, dtype=torch.float64)
                found.append(((computed - sampled).abs(), sampled))
        return found
