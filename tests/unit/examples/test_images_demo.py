"""The demo with pictures: what of a step's readings is trained on, and what they are counted as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hud.train.types import TrajectoryPayload, TrajectorySample

from examples.grpo import LoopConfig
from examples.images_loop import HELD_OUT_SEEDS, ImagesLoop, complete_groups, num_tokens
from examples.images_players import Reading
from examples.pictures.drawing import Drawing, split_numbers

CHUNKS: list[dict[str, Any]] = [
    {"type": "encoded_text", "tokens": [1, 2, 3]},
    {"type": "image_asset_pointer", "location": "sha256:" + "0" * 64, "format": "png", "expected_tokens": 4},
    {"type": "encoded_text", "tokens": [5]},
]


class Shrugs:
    """Reads nothing, and remembers what it was shown."""

    error = "nothing works"

    def __init__(self) -> None:
        self.shown: list[Drawing] = []

    async def read(self, drawings: Sequence[Drawing], group_size: int, temperature: float) -> list[Reading]:
        self.shown += drawings
        return [None for _ in range(len(drawings) * group_size)]


def reading(reward: float, **prompt: Any) -> TrajectoryPayload:
    return TrajectoryPayload(samples=[TrajectorySample(output_token_ids=[7, 8], **prompt)], reward=reward)


def test_a_group_that_lacks_a_reading_is_left_out():
    one, other = reading(0.0), reading(1.0)
    assert complete_groups([one, None, other, one], 2) == [other, one]


def test_a_picture_counts_as_the_tokens_that_it_is():
    assert num_tokens(reading(0.0, prompt_chunks=CHUNKS)) == 8 + 2
    assert num_tokens(reading(0.0, prompt_token_ids=[1, 2, 3])) == 3 + 2


async def test_held_out_numbers_alone_are_scored_and_a_failed_reading_is_a_wrong_one():
    player = Shrugs()
    loop = ImagesLoop("nobody", LoopConfig(num_held_out=40), player, lambda *_: None)
    score = await loop.score_held_out()
    assert (score.reward, score.num_problems) == (0.0, 40)
    assert {drawing.number for drawing in player.shown} == set(split_numbers()[1])
    assert {drawing.seed for drawing in player.shown} == set(HELD_OUT_SEEDS[:2])
