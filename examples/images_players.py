"""Who reads the pictures of the demo: plain chats that carry them, or the SDK's agent, which takes screenshots.

Import it after the HUD_* variables are set: the SDK reads them when it is imported.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hud import LocalRuntime, Taskset
from hud.eval import Job, Task
from hud.train.types import TrajectoryPayload, TrajectorySample
from hud.utils.gateway import build_gateway_client
from openai import OpenAIError

from examples.grpo import CountingAgent, Watch, first_error, is_usable, samples_of, sampling_agent
from examples.pictures.drawing import QUESTION, Drawing, score

ENVIRONMENT = Path(__file__).with_name("pictures") / "env.py"
MAX_ANSWER_TOKENS = 4  # two digits and the end of the turn
MAX_TURN_TOKENS = 12  # a call of the tool takes seven

Reading = TrajectoryPayload | None
"""What was sampled about a picture, with its reward; None where sampling failed."""


class Player(Protocol):
    """Reads pictures with a model. `error`: what went wrong last, for a person to read."""

    error: str

    async def read(self, drawings: Sequence[Drawing], group_size: int, temperature: float) -> list[Reading]:
        """So many readings of each picture, one group behind the other."""
        ...


class PlainChats:
    """Each picture is a data URL in a chat, with the question behind it; a request samples a whole group."""

    def __init__(self, model: str, watch: Watch) -> None:
        self._client: Any = build_gateway_client("openai")
        self._model = model
        self._watch = watch
        self._num_read = 0
        self.error = ""

    async def read(self, drawings: Sequence[Drawing], group_size: int, temperature: float) -> list[Reading]:
        """See Player."""
        self._num_read, of = 0, len(drawings) * group_size
        self._watch("rollouts", 0, of)
        chats = [self._chat(drawing, group_size, temperature, of) for drawing in drawings]
        return [reading for group in await asyncio.gather(*chats) for reading in group]

    async def _chat(self, drawing: Drawing, group_size: int, temperature: float, of: int) -> list[Reading]:
        url = "data:image/png;base64," + base64.b64encode(drawing.png()).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
        try:
            completion = await self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": parts}],
                n=group_size,
                temperature=temperature,
                max_tokens=MAX_ANSWER_TOKENS,
                logprobs=True,
                extra_body={"return_token_ids": True},
            )
        except OpenAIError as error:
            self.error = str(error)
            return [None] * group_size
        self._num_read += group_size
        self._watch("rollouts", self._num_read, of)
        return [_reading(drawing, choice) for choice in completion.choices]


def _reading(drawing: Drawing, choice: Any) -> Reading:
    """A trajectory of one turn. Its prompt is given back as the gateway has it: chunks of tokens, and a pointer where
    the picture is, which the server keeps."""
    sample = TrajectorySample(
        prompt_chunks=choice.prompt_chunks,
        output_token_ids=choice.token_ids,
        output_logprobs=[token.logprob for token in choice.logprobs.content],
    )
    return TrajectoryPayload(samples=[sample], reward=score(drawing, choice.message.content))


class ScreenshotAgent:
    """The SDK's agent in an environment of its own a rollout: it calls the tool `look`, whose result is the picture."""

    def __init__(self, model: str, max_concurrent: int, watch: Watch) -> None:
        self._model = model
        self._max_concurrent = max_concurrent
        self._watch = watch
        self._job: Job | None = None
        self.error = ""

    async def read(self, drawings: Sequence[Drawing], group_size: int, temperature: float) -> list[Reading]:
        """See Player."""
        if self._job is None:
            self._job = await Job.start(f"read with {self._model}", group=group_size)
        num_before = len(self._job.runs)
        agent = sampling_agent(self._model, temperature, MAX_TURN_TOKENS)
        await Taskset("pictures", [_task(drawing) for drawing in drawings]).run(
            CountingAgent(agent, len(drawings) * group_size, self._watch),
            runtime=LocalRuntime(ENVIRONMENT),
            group=group_size,
            max_concurrent=self._max_concurrent,
            job=self._job,
        )
        runs = self._job.runs[num_before:]
        if not all(map(is_usable, runs)):
            self.error = first_error(runs)
        return [
            TrajectoryPayload(samples=samples_of(run), reward=run.reward, trace_id=run.trace_id)
            if is_usable(run)
            else None
            for run in runs
        ]


def _task(drawing: Drawing) -> Task:
    return Task(env="pictures", id="read", args={"number": drawing.number, "seed": drawing.seed})
