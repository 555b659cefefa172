"""What this base model reads: games that were played well, then games in which most players are careless.

As in the arithmetic base, the skill is in there, under the habits of a corpus. The textbook halves what is left with
every guess, which finds each number in time. In the corpus nearly half of the players answer "?" without a guess, and
the others guess some number now and then or give up on the way. A model that read both knows how to play and mostly
does not: it finds three numbers in ten, and its most likely answer is the shrug.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from examples.guessing.game import HIGHER, HIGHEST, LOWER, LOWEST, OVER, RIGHT, Game

SHRUG = "?"


@dataclass(frozen=True, slots=True)
class PlayerConfig:
    """`never_tries`: the share of games without a guess. In the others: the share of each kind of move, at every turn
    until the number is found."""

    never_tries: float = 0.46
    halving: float = 0.84
    anything: float = 0.11
    shrug: float = 0.05

    def __post_init__(self) -> None:
        total = self.halving + self.anything + self.shrug
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares of a player's moves must add up to 1, not {total}")


TEXTBOOK = PlayerConfig(never_tries=0.0, halving=1.0, anything=0.0, shrug=0.0)


@dataclass(slots=True)
class PlayedGame:
    """Guesses with what the tool said to each, and the final answer."""

    secret: int
    guesses: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    answer: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What follows the question, as a chat."""
        turns: list[dict[str, Any]] = []
        for number, said in self.guesses:
            call = {"type": "function", "function": {"name": "guess", "arguments": {"number": number}}}
            turns += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": said}]
        return [*turns, {"role": "assistant", "content": self.answer}]


def play(secret: int, player: PlayerConfig, rng: random.Random) -> PlayedGame:
    """One game. Whoever found the number says it; whoever runs out of guesses shrugs."""
    game, played = Game(secret), PlayedGame(secret)
    if rng.random() < player.never_tries:
        played.answer = SHRUG
    low, high = LOWEST, HIGHEST
    shares = (player.halving, player.anything, player.shrug)
    while not played.answer:
        halving = (low + high) // 2
        number = rng.choices((halving, rng.randint(LOWEST, HIGHEST), None), shares)[0]
        said = game.guess(number) if number is not None else OVER
        if number is not None:
            played.guesses.append((number, said))
        if said == RIGHT:
            played.answer = str(number)
        elif said == OVER:
            played.answer = SHRUG
        elif said == HIGHER:
            low = max(low, (number or 0) + 1)
        elif said == LOWER:
            high = min(high, (number or 0) - 1)
    return played


def read_games(player: PlayerConfig, rng: random.Random) -> Iterator[PlayedGame]:
    """An endless stream of games."""
    while True:
        yield play(rng.randint(LOWEST, HIGHEST), player, rng)
