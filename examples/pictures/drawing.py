"""Small pictures of two digits: which numbers there are, which of them are never trained on, and how one is drawn.

The numbers are 00…99. The digits stand side by side, a half of the picture each, a little up or down, in colours of
their own. Pillow alone: the environment and the base model's corpus both draw with it.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE = 32  # pixels
HIGHEST = 99
NUM_HELD_OUT = 20
SPLIT_SEED = 5  # part of the task, not of a run: every run holds out the same numbers
QUESTION = "?"

_FONT_SIZE = 20
_LEFT, _TOP, _MOST_LEFT, _MOST_DOWN = 2, 5, 2, 3  # where a digit is drawn in its half, and how far off it may be


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture: the number on it, and the seed of its colours and places."""

    number: int
    seed: int

    @property
    def answer(self) -> str:
        """Both digits, as they are read."""
        return f"{self.number:02d}"

    def drawn(self) -> Image.Image:
        """The same pixels each time."""
        return draw(self.number, random.Random(1000 * self.number + self.seed))

    def png(self) -> bytes:
        """The picture as a file."""
        buffer = io.BytesIO()
        self.drawn().save(buffer, "PNG")
        return buffer.getvalue()


def split_numbers() -> tuple[list[int], list[int]]:
    """Numbers to train on and held-out numbers, disjoint, each in ascending order."""
    held_out = set(random.Random(SPLIT_SEED).sample(range(HIGHEST + 1), NUM_HELD_OUT))
    return [number for number in range(HIGHEST + 1) if number not in held_out], sorted(held_out)


def draw(number: int, rng: random.Random) -> Image.Image:
    """RGB, SIDE × SIDE."""
    ground = tuple(rng.randint(150, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 100) for _ in range(3))
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=_FONT_SIZE)
    for half, digit in enumerate(f"{number:02d}"):
        left = half * SIDE // 2 + _LEFT + rng.randint(-_MOST_LEFT // 2, _MOST_LEFT)
        canvas.text((left, _TOP + rng.randint(-_MOST_DOWN, _MOST_DOWN)), digit, fill=ink, font=font)
    return picture


def score(drawing: Drawing, answer: str | None) -> float:
    """1.0 for exactly the two digits, else 0.0. No partial credit."""
    return 1.0 if (answer or "").strip() == drawing.answer else 0.0
