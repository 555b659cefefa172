"""The sums of the demo as token ids: the client of this API renders its prompts and reads its answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinker import TrainingClient
from transformers import AutoTokenizer

from examples.arithmetic.problems import Problem, score

MAX_TOKENS = 6  # a right answer takes three: two digits and the end of the turn


@dataclass(frozen=True, slots=True)
class Sums:
    """Problems and answers, there and back, by the chat template of the base."""

    tokenizer: Any

    @classmethod
    def of(cls, training: TrainingClient, folder: str | None) -> Sums:
        """With the tokenizer in this folder, or the one that the service names."""
        return cls(AutoTokenizer.from_pretrained(folder) if folder else training.get_tokenizer())

    def prompt(self, problem: Problem) -> list[int]:
        """Up to where the assistant's answer begins."""
        messages = [{"role": "user", "content": problem.prompt}]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def answer(self, text: str) -> list[int]:
        """The text and the end of the turn: what a model samples that gives this answer."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def reward(self, problem: Problem, tokens: Sequence[int]) -> float:
        """1.0 for exactly the right number, else 0.0."""
        return score(problem, self.tokenizer.decode(tokens, skip_special_tokens=True))
