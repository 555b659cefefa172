"""What the SDK asks of a hosted service and this server does not do: refused with what to do instead."""

from __future__ import annotations

from typing import ClassVar

from server.http.authentication import CallerDep
from server.protocols.hud.routing import HudRouter
from wire.errors import FINAL, HeadwayError


class NotOffered(HeadwayError):
    """This server does not do that; something else does."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "not_offered"
    tries: ClassVar[int | None] = FINAL


router = HudRouter(include_in_schema=False)


@router.post("/v2/rollouts/submit")
async def submit(caller: CallerDep) -> None:
    """A whole rollout, environment and agent, to be run here."""
    raise NotOffered(
        "this server runs no rollouts itself: give the taskset a runtime of your own, as in `taskset.run(agent, "
        'runtime=LocalRuntime("env.py"))`, or `hud eval NAME MODEL --runtime tcp://host:port` with the address of an '
        "environment that `hud serve` runs; what it does is recorded here all the same"
    )
