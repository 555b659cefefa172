"""Examples that a run imitates, in the place of tasks: conversations, or the tokens of turns. They have no rollouts;
a sampler of the base makes tokens of them when their step is trained."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from server.runs.tasks import Task
from server.sampling.collaborators import Sampling
from server.sampling.rendering import render
from server.sampling.target import Target
from wire.errors import InvalidRequest
from wire.extension import Int32Array
from wire.trajectories import Trajectory, Turn

EXAMPLES = "headway-examples"
"""In the place of an environment: there is none of that name."""
EXAMPLE = "example"
_AT_ONCE = 16


async def trajectories_of(sampling: Sampling, target: Target, examples: Sequence[Task]) -> list[Trajectory]:
    """The turns that are imitated, an example each, in order. Raises Unavailable, and InvalidRequest, naming the line,
    for what the base's chat template cannot show."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(example: Task) -> Trajectory:
        async with room:
            try:
                return Trajectory(tuple(await _turns(sampling, target, example.args)), 0.0)
            except InvalidRequest as error:
                raise type(error)(f"{example.slug}: {error.message}") from None

    return await asyncio.gather(*(one(example) for example in examples))


async def _turns(sampling: Sampling, target: Target, args: Mapping[str, Any]) -> list[Turn]:
    if "turns" in args:
        return [_turn(turn["prompt_token_ids"], turn["output_token_ids"]) for turn in args["turns"]]
    messages, tools = args["messages"], args["tools"]
    turns = list[Turn]()
    for index in args["trained"]:
        prompt = await render(sampling, target, messages[:index], tools, opened=True)
        whole = await render(sampling, target, messages[: index + 1], tools, opened=False)
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise InvalidRequest(
                f"message {index}: the chat template of {target.base_slug!r} writes an answer otherwise than it begins "
                "one, so its tokens are not those that would be sampled; send the tokens themselves"
            )
        turns.append(_turn(prompt, whole[len(prompt) :]))
    return turns


def _turn(prompt: Sequence[int], output: Sequence[int]) -> Turn:
    return Turn(_ids(prompt), _ids(output), np.zeros(0, np.float32))


def _ids(ids: Sequence[int]) -> Int32Array:
    return np.asarray(ids, np.int32)
