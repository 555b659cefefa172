"""Rollouts of agents that look at a screen: a screenshot a turn, and what they answered to it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from bench.screen_base import MERGE, NUM_WORDS, PATCH, PLACEHOLDER
from wire.engine import Pictures
from wire.extension import Media
from wire.trajectories import Batch, Int32Array, Trajectory, Turn

_SIDE = PATCH * MERGE
"""Of what a token stands for, in pixels."""


@dataclass(frozen=True, slots=True)
class Screens:
    """A group of rollouts. width, height: of a screenshot, in pixels. output: tokens that end each turn; equally many,
    so that rows of one turn need no padding. shares_frames: all rollouts see the same screens at the same turn, behind
    other words; else the first one alone, which nobody has acted on yet."""

    group_size: int = 8
    num_turns: int = 6
    width: int = 640
    height: int = 400
    prompt: int = 128
    output: int = 48
    shares_frames: bool = True

    @property
    def num_placeholders(self) -> int:
        """Of a screenshot, whose sides are whole tokens."""
        return self.width * self.height // _SIDE**2

    @property
    def halved(self) -> Screens:
        """With screenshots of half the width and height, in whole tokens."""
        return replace(self, width=self.width // (2 * _SIDE) * _SIDE, height=self.height // (2 * _SIDE) * _SIDE)


@dataclass(frozen=True, slots=True, eq=False)
class ScreenBatch:
    """pictures: all that the batch names."""

    batch: Batch
    pictures: Pictures

    @property
    def num_shown(self) -> int:
        """Pictures of all prompts as sent, repeats included."""
        return sum(len(turn.media) for trajectory in self.batch.trajectories for turn in trajectory.turns)


def screen_batch(shape: Screens, seed: int) -> ScreenBatch:
    """Rewards are standard normal; sampling logprobs are zero until `near_policy` sets them."""
    rng = np.random.default_rng(seed)
    prompt, frames = _words(rng, shape.prompt), [_frame(rng, shape) for _ in range(shape.num_turns)]
    pictures, trajectories = dict[bytes, bytes](), list[Trajectory]()
    for _ in range(shape.group_size):
        own = frames if shape.shares_frames else [frames[0], *(_frame(rng, shape) for _ in frames[1:])]
        digests = [hashlib.sha256(frame).digest() for frame in own]
        pictures |= dict(zip(digests, own, strict=True))
        trajectories.append(_rollout(rng, shape, prompt, digests))
    return ScreenBatch(Batch(trajectories, group_size=shape.group_size), pictures)


def _rollout(rng: np.random.Generator, shape: Screens, prompt: Int32Array, digests: Sequence[bytes]) -> Trajectory:
    history, media, turns = prompt, list[Media](), list[Turn]()
    for digest in digests:
        media.append(Media(len(history), shape.num_placeholders, digest, shape.width, shape.height))
        run = np.full(shape.num_placeholders, PLACEHOLDER, np.int32)
        history = np.concatenate([history, run, _words(rng, 1)])
        output = _words(rng, shape.output)
        turns.append(Turn(history, output, np.zeros(len(output), np.float32), tuple(media)))
        history = np.concatenate([history, output, _words(rng, 2)])
    return Trajectory(tuple(turns), reward=float(rng.standard_normal()))


def _words(rng: np.random.Generator, length: int) -> Int32Array:
    return rng.integers(0, NUM_WORDS, length).astype(np.int32)


def _frame(rng: np.random.Generator, shape: Screens) -> bytes:
    """Windows of one colour, as screens have them: a PNG of noise would take longer to decode than any of them."""
    pixels = np.empty((shape.height, shape.width, 3), np.uint8)
    pixels[:] = rng.integers(0, 256, 3)
    for _ in range(24):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in pixels.shape[:2])
        pixels[top:bottom, left:right] = rng.integers(0, 256, 3)
    into = io.BytesIO()
    Image.fromarray(pixels).save(into, "PNG")
    return into.getvalue()
