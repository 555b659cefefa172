"""The environment `headway-graded`: one turn, graded by a grader of OpenAI's fine-tuning API.

The task's arguments hold the conversation, the line of the file and the grader. A leading system message is given to
the agent as its system prompt, by the task's `agent_config`: the SDK makes users of other roles.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from hud.environment import Environment

from runner.environments.builtin.grading import grade
from wire.graders.shapes import GRADER
from wire.graders.tasks import GRADED_ENVIRONMENT, GRADED_TASK

env = Environment(GRADED_ENVIRONMENT)


@env.template(id=GRADED_TASK, description="Answers a conversation; a grader of the fine-tuning API scores the answer.")
async def graded(
    messages: list[dict[str, Any]], item: dict[str, Any], grader: dict[str, Any]
) -> AsyncGenerator[Any, Any]:
    """Yields the conversation, then the score."""
    checked = GRADER.validate_python(grader)
    answer = yield {"prompt": messages}
    graded = await grade(checked, item, answer if isinstance(answer, str) else "")
    yield {"score": graded.score, "info": graded.info}
