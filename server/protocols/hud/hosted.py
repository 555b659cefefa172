"""What the SDK asks of a hosted service and this server does not do: refused with what to do instead."""

from __future__ import annotations

from typing import ClassVar

from server.http.authentication import CallerDep
from server.protocols.hud.routing import HudRouter
from wire.errors import FINAL, HeadwayError, NotFound


class NotOffered(HeadwayError):
    """This server does not do that; something else does."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "not_offered"
    tries: ClassVar[int | None] = FINAL


router = HudRouter(include_in_schema=False)

_NO_ENVIRONMENTS = (
    "this server keeps and runs no environments: run tasks where you are, with `taskset.run(agent, "
    'runtime=LocalRuntime("env.py"))` or `hud eval tasks.py`'
)


@router.post("/runtime/sessions", tags=["runtime"])
async def runtime_session(caller: CallerDep) -> None:
    """Remote environments, which this server does not run."""
    raise NotFound("this server runs no environments: give the taskset a runtime of your own, such as a local one")


@router.post("/v2/rollouts/submit")
async def submit(caller: CallerDep) -> None:
    """A whole rollout, environment and agent, to be run here."""
    raise NotOffered(
        "this server runs no rollouts itself: give the taskset a runtime of your own, as in `taskset.run(agent, "
        'runtime=LocalRuntime("env.py"))`, or `hud eval NAME MODEL --runtime tcp://host:port` with the address of an '
        "environment that `hud serve` runs; what it does is recorded here all the same"
    )


@router.get("/v2/registry")
async def registry(caller: CallerDep) -> None:
    """Environments that were deployed."""
    raise NotOffered(_NO_ENVIRONMENTS)


@router.get("/v2/registry/{environment_id}")
async def deployed(caller: CallerDep, environment_id: str) -> None:
    """One of them."""
    raise NotOffered(_NO_ENVIRONMENTS)


@router.post("/v2/builds/upload-url")
async def deploy(caller: CallerDep) -> None:
    """`hud deploy`."""
    raise NotOffered(f"there is nothing to deploy to: {_NO_ENVIRONMENTS}")


@router.post("/v2/projects")
async def create_project(caller: CallerDep) -> None:
    """`hud project create`."""
    raise NotOffered("a team has one project, 'default', which is the team; an operator makes more teams")
