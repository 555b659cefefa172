"""All pages. The last route catches what no page and no endpoint answers."""

from __future__ import annotations

from fastapi.responses import Response

from server.http.beginnings import IndexedRouter
from server.pages.charts import compare_page
from server.pages.checkpoints import moving_heads
from server.pages.environments import environment_list, environment_page
from server.pages.guard import alarms, guard_form
from server.pages.help import help_page, help_pictures
from server.pages.jobs import job_list, job_page
from server.pages.models import (
    deleting_models,
    downloading_adapters,
    editing_models,
    model_list,
    model_page,
    pausing_models,
)
from server.pages.playground import playground_page, streaming
from server.pages.rollouts import downloads, noting, pictures, rollout_list, scoring, side_by_side, trace_page
from server.pages.runs import changing_runs, run_list, run_page, tagging_runs
from server.pages.session import login
from server.pages.shared import static_files
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.system import draining, system_page
from server.pages.tasksets import taskset_list, taskset_page
from server.pages.team import audit_log, keys, new_keys, own_team, removing_teams, revoking_keys, team_page
from wire.errors import NotFound

router = IndexedRouter()
_PAGES = (
    static_files,
    help_pictures,
    help_page,
    login,
    model_list,
    model_page,
    compare_page,
    moving_heads,
    pausing_models,
    editing_models,
    deleting_models,
    downloading_adapters,
    alarms,
    guard_form,
    job_list,
    job_page,
    rollout_list,
    side_by_side,
    trace_page,
    downloads,
    pictures,
    noting,
    scoring,
    playground_page,
    streaming,
    run_list,
    run_page,
    tagging_runs,
    changing_runs,
    taskset_list,
    taskset_page,
    environment_list,
    environment_page,
    system_page,
    draining,
    keys,
    new_keys,
    revoking_keys,
    team_page,
    removing_teams,
    own_team,
    audit_log,
)
for one in _PAGES:
    router.include_router(one.router)

rest = PageRouter()
"""Included after every endpoint."""


@rest.get("/{path:path}")
async def no_such_page(visitor: VisitorDep, path: str) -> Response:
    """Whatever else a browser asks for."""
    raise NotFound(f"there is no page /{path}")
