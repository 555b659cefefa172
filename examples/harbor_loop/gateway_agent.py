"""A Harbor agent on the gateway: it asks the model once, and writes what it said to /app/answer.txt."""

from __future__ import annotations

import os
import shlex
import uuid

from harbor.agents.base import BaseAgent
from harbor.environments.base import BaseEnvironment
from harbor.models.agent.context import AgentContext
from openai import AsyncOpenAI


class GatewayAgent(BaseAgent):
    """`-m` is a model of the box. The trial's id of the rollout is in its result, as `metadata.trace_id`."""

    @staticmethod
    def name() -> str:
        return "gateway"

    def version(self) -> str:
        return "1.0.0"

    async def setup(self, environment: BaseEnvironment) -> None:
        await environment.exec("mkdir -p /app")

    async def run(self, instruction: str, environment: BaseEnvironment, context: AgentContext) -> None:
        trace_id = uuid.uuid4().hex
        context.metadata = {"trace_id": trace_id}
        client = AsyncOpenAI(base_url=f"{os.environ['HUD_GATEWAY_URL']}/v1", api_key=os.environ["HUD_API_KEY"])
        said = await client.chat.completions.create(
            model=str(self.model_name),
            messages=[{"role": "user", "content": instruction.strip()}],
            max_tokens=8,
            extra_headers={"Trace-Id": trace_id},
        )
        answer = said.choices[0].message.content or ""
        await environment.exec(f"printf %s {shlex.quote(answer)} > /app/answer.txt")
