"""More requests at once than a server has connections to its database."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from server.app import create_app
from server.settings import ServerSettings
from store.pool_queue import QueueLimits
from tests.contract.conftest import serving


async def test_requests_that_find_every_connection_lent_are_refused_and_nothing_else_waits(
    database_url, tmp_path: Path, team, model
):
    settings = ServerSettings(
        database_url, tmp_path, "token", database_pool_size=1, database_queue=QueueLimits(most_waiting=0)
    )
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {team.key}"}
    chat = {"model": model["model_name"], "messages": [{"role": "user", "content": "hi"}]}
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        async with AsyncExitStack() as lent:
            await lent.enter_async_context(app.state.context.database.session())
            await lent.enter_async_context(app.state.context.database.connection())
            for reply in (await http.get("/v2/models"), await http.post("/chat/completions", json=chat)):
                assert (reply.status_code, reply.json()["code"]) == (503, "too_busy"), reply.text
                assert int(reply.headers["retry-after"]) > 0
                assert "more calls at once than it can work on" in reply.json()["detail"]
            ready = (await http.get("/readyz")).json()
            assert ready["database"]
            assert ready["bases"]
        assert (await http.get("/v2/models")).status_code == 200
