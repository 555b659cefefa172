"""Driving a rollout with the SDK, as a client of this service would. Importing this imports the SDK."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import hud
from hud.eval.run import rollout
from hud.eval.runtime import Runtime
from hud.eval.task import Task
from hud.settings import settings as sdk_settings
from hud.telemetry.context import set_trace_context
from hud.types import AgentType

from runner.agents.flushing import Flushes, LostReports, keep_uploading
from runner.agents.messages import Drive, Driven, Settings
from runner.agents.model_clients import ModelClients

log = logging.getLogger(__name__)

_DIRECT = ("api_key", "base_url", "model_client")


class UnusableAgent(ValueError):
    """This agent cannot run here."""


class Driver:
    """Of one key. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        sdk_settings.api_key = settings.key
        keep_uploading()
        self._lost = LostReports()
        self._flushes = Flushes()
        self._clients = ModelClients()

    @property
    def sdk_version(self) -> str:
        """Of the SDK."""
        return str(hud.__version__)

    async def drive(self, drive: Drive) -> Driven:
        """Returns when all that the SDK reports of it was sent. Cancelled, it stops the rollout first."""
        trace = drive.rollout.trace_id.hex
        error = None
        try:
            await _roll_out(drive, self._clients)
        except asyncio.CancelledError:
            return Driven(id=drive.id, error="it was stopped")
        except Exception as failed:  # of the SDK, before there is a rollout that it could report
            log.warning("rollout failed", exc_info=True)
            error = f"{type(failed).__name__}: {failed}"
        is_flushed = await self._flushes.wait()
        return Driven(id=drive.id, error=error, void=self._void(trace, is_flushed))

    def _void(self, trace: str, is_flushed: bool) -> str | None:
        was_refused = self._clients.take_refused(trace)
        if self._lost.take(trace) or not is_flushed:
            return "what the agent's process reported did not all reach the server"
        return "the server refused the agent's key for a while" if was_refused else None


async def _roll_out(drive: Drive, clients: ModelClients) -> None:
    spec = drive.rollout
    agent_type = AgentType(spec.agent.type)
    task = Task.model_validate(
        {
            "env": drive.environment,
            "id": spec.task,
            "args": spec.args,
            **({"slug": spec.slug} if spec.slug else {}),
            **({"verifier": spec.verifier} if spec.verifier else {}),
        }
    )
    call = rollout(
        task,
        agent_type.cls.load(_config(agent_type, spec.agent.config, drive.timeout_s, clients)),
        runtime=lambda placed: Runtime(_address(drive, task, placed))(placed),
        job_id=spec.job_id.hex,
        group_id=spec.group_id,
        trace_id=spec.trace_id.hex,
        rollout_timeout=drive.timeout_s,
    )
    if spec.parent_trace_id is None:
        await call
    else:
        with set_trace_context(spec.parent_trace_id):
            await call


def _address(drive: Drive, task: Task, placed: Task) -> str:
    is_elsewhere = placed is task.verifier and drive.verifier_address is not None
    return drive.verifier_address if is_elsewhere and drive.verifier_address else drive.address


def _config(agent_type: AgentType, config: dict[str, Any], timeout_s: float, clients: ModelClients) -> dict[str, Any]:
    """As it was sent, with the shared client. Raises UnusableAgent.

    The SDK refuses an agent whose own timeout is not shorter than the rollout's: it could never take effect, and is
    left out.
    """
    direct = [name for name in _DIRECT if config.get(name) is not None]
    if direct:
        raise UnusableAgent(f"an agent here samples through this service alone: leave out {', '.join(direct)}")
    own_timeout = config.get("timeout_seconds")
    if own_timeout is not None and own_timeout >= timeout_s:
        config = {**config, "timeout_seconds": None}
    return {**config, "model_client": clients.of(agent_type)}
