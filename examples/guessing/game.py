"""The rules: a number between two bounds, a few guesses, each answered with which way to go. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

LOWEST, HIGHEST = 1, 15
MAX_GUESSES = 4  # halving what is left finds each of 15 numbers within 4
HIGHER, LOWER, RIGHT, OVER = "higher", "lower", "right", "no guesses left"
PROMPT = f"{LOWEST}-{HIGHEST}?"


@dataclass(slots=True)
class Game:
    """One game: what was guessed so far decides what a guess is answered with."""

    secret: int
    num_guesses: int = 0

    def guess(self, number: int) -> str:
        """Which way the secret lies from here, RIGHT, or OVER behind the last guess."""
        if self.num_guesses == MAX_GUESSES:
            return OVER
        self.num_guesses += 1
        if number == self.secret:
            return RIGHT
        return HIGHER if number < self.secret else LOWER

    def score(self, answer: str | None) -> float:
        """1.0 for exactly the secret as the final answer, else 0.0. No partial credit."""
        return 1.0 if (answer or "").strip() == str(self.secret) else 0.0
