"""The score of an answer, by a grader.

What the model is to blame for scores 0: an answer that is no JSON where `sample.output_json` is asked for. What it is
not to blame for raises `GradingFailed`: the rollout errs, and nothing trains on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from runner.environments.builtin import judging, programs
from runner.environments.builtin.failures import GradingFailed
from runner.environments.builtin.similarity import similarity
from wire.graders import shapes
from wire.graders.formulas import Formula, FormulaError
from wire.graders.templates import NoSuchValue, Template


@dataclass(frozen=True, slots=True)
class Graded:
    """A score; `info`: of which it is made."""

    score: float
    info: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Answered:
    """The line of the file, and what the model answered."""

    item: dict[str, Any]
    sample: dict[str, Any]

    def text(self, template: str) -> str:
        """The template filled in. Raises NoSuchValue for a part that the answer does not have, GradingFailed for one
        that the line does not have."""
        try:
            return Template(template).render({"item": self.item, "sample": self.sample})
        except NoSuchValue as missing:
            if str(missing).startswith("sample"):
                raise
            raise GradingFailed(f"the line of the file has no {missing}") from None


async def grade(grader: shapes.Grader, item: dict[str, Any], output: str) -> Graded:
    """Raises GradingFailed."""
    answered = Answered(item, sample_of(output))
    if not isinstance(grader, shapes.Multi):
        return await _graded(grader, answered)
    parts = await asyncio.gather(*(_graded(one, answered) for one in grader.graders.values()))
    scores = {name: part.score for name, part in zip(grader.graders, parts, strict=True)}
    try:
        score = Formula(grader.calculate_output, scores).value(scores)
    except FormulaError as error:
        raise GradingFailed(f"{error}; the scores were {scores}") from None
    return Graded(
        score, {"scores": scores, **{name: part.info for name, part in zip(scores, parts, strict=True) if part.info}}
    )


def sample_of(output: str) -> dict[str, Any]:
    """The answer as graders see it. `output_json` is there where the answer is JSON."""
    sample: dict[str, Any] = {"output_text": output, "output_tools": []}
    with contextlib.suppress(ValueError, RecursionError):
        sample["output_json"] = json.loads(output)
    return sample


async def _graded(grader: shapes.Single, answered: Answered) -> Graded:
    try:
        return Graded(*(await _GRADERS[type(grader)](grader, answered)))
    except NoSuchValue as missing:
        return Graded(0.0, {"reason": f"the answer has no {missing}"})


async def _check(grader: shapes.StringCheck, answered: Answered) -> tuple[float]:
    said, reference = answered.text(grader.input), answered.text(grader.reference)
    return (float(_COMPARISONS[grader.operation](said, reference)),)


async def _compare(grader: shapes.TextSimilarity, answered: Answered) -> tuple[float]:
    said, reference = answered.text(grader.input), answered.text(grader.reference)
    return (await asyncio.to_thread(similarity, grader.evaluation_metric, said, reference),)


async def _run(grader: shapes.Python, answered: Answered) -> tuple[float]:
    return (await programs.run(grader.source, answered.sample, answered.item),)


async def _score(grader: shapes.ScoreModel, answered: Answered) -> tuple[float, dict[str, Any]]:
    return await judging.score(grader, _messages(grader.input, answered))


async def _label(grader: shapes.LabelModel, answered: Answered) -> tuple[float, dict[str, Any]]:
    return await judging.label(grader, _messages(grader.input, answered))


def _messages(said: list[shapes.GradingMessage], answered: Answered) -> list[dict[str, str]]:
    return [{"role": message.role, "content": answered.text(message.text)} for message in said]


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda said, reference: said == reference,
    "ne": lambda said, reference: said != reference,
    "like": lambda said, reference: reference in said,
    "ilike": lambda said, reference: reference.casefold() in said.casefold(),
}
_GRADERS: dict[type[Any], Callable[[Any, Answered], Coroutine[Any, Any, tuple[Any, ...]]]] = {
    shapes.StringCheck: _check,
    shapes.TextSimilarity: _compare,
    shapes.Python: _run,
    shapes.ScoreModel: _score,
    shapes.LabelModel: _label,
}
