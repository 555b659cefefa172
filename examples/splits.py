"""Which pairs of numbers are never trained on."""

from __future__ import annotations

import random

Pair = tuple[int, int]


def split_pairs(lowest: int, highest: int, num_held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """All ordered pairs of lowest…highest: those to train on, and the held-out ones, disjoint, each in ascending order.

    A pair and its mirror image are on the same side. num_held_out: pairs without their mirror images.
    """
    numbers = range(lowest, highest + 1)
    pairs = [(a, b) for a in numbers for b in range(a, highest + 1)]
    held_out_pairs = set(random.Random(seed).sample(pairs, num_held_out))
    training: list[Pair] = []
    held_out: list[Pair] = []
    for a in numbers:
        for b in numbers:
            side = held_out if (min(a, b), max(a, b)) in held_out_pairs else training
            side.append((a, b))
    return training, held_out
