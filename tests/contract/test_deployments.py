"""Deployments over HUD's API, with a runner whose environments are functions."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tarfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from server.auth.service import create_key, ensure_team
from store.database import AsyncDatabase
from store.tables import PlacementRow
from tests.contract.conftest import Team, new_team
from tests.contract.environments import deployed_environment_of
from tests.contract.runners import MANIFEST, FunctionEnvironments, running_runner


def archive(**files: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in {"env.py": "...", **files}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content.encode())
            tar.addfile(about, io.BytesIO(content.encode()))
    return written.getvalue()


@dataclass
class Deploying:
    """A team, and a runner that builds what it deploys."""

    team: Team
    environments: FunctionEnvironments

    async def upload(self, content: bytes | None = None) -> str:
        """The id of a build whose archive was sent."""
        begun = (await self.team.http.post("/v2/builds/upload-url")).json()
        async with httpx.AsyncClient(trust_env=False, verify=False) as nobody:
            sent = await nobody.put(begun["upload_url"], content=archive() if content is None else content)
        assert sent.status_code == 200, sent.text
        return begun["build_id"]

    async def trigger(self, build_id: str, name: str, **fields: Any) -> httpx.Response:
        body = {"source": "direct", "build_id": build_id, "name": name, "no_cache": False, **fields}
        return await self.team.http.post("/v2/builds/trigger", json=body)

    async def ended(self, build_id: str) -> dict[str, Any]:
        """The status of a build once it has ended."""
        async with asyncio.timeout(20):
            while True:
                status = (await self.team.http.get(f"/v2/builds/{build_id}/status")).json()
                if status["status"] != "IN_PROGRESS":
                    return status
                await asyncio.sleep(0.05)

    async def deploy(self, name: str, content: bytes | None = None, **fields: Any) -> dict[str, Any]:
        build_id = await self.upload(content)
        triggered = await self.trigger(build_id, name, **fields)
        assert triggered.status_code == 200, triggered.text
        assert triggered.json()["status"] == "IN_PROGRESS"
        return await self.ended(build_id)


@pytest.fixture(scope="module")
async def deploying(
    origin: str, database: AsyncDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deploying]:
    environments = FunctionEnvironments()
    folder: Path = tmp_path_factory.mktemp("runner")
    async with new_team(origin, database) as team, running_runner(origin, database, team.name, environments, folder):
        yield Deploying(team, environments)


async def frames(team: Team, origin: str, build_id: str, key: str | None = None) -> list[dict[str, Any]]:
    url = f"{origin.replace('http', 'ws')}/v2/builds/{build_id}/logs?api_key={key or team.key}"
    async with connect(url, proxy=None) as socket:
        return [json.loads(frame) async for frame in socket]


async def test_a_deployment_becomes_a_version_under_the_normalized_name(deploying: Deploying):
    status = await deploying.deploy("Demo_Env One")
    assert (status["status"], status["version"], status["registry_name"]) == ("SUCCEEDED", "1", "demo-env-one")
    assert status["manifest"]["tasks"] == MANIFEST["tasks"]
    found = (await deploying.team.http.get("/v2/registry", params={"search": "demo-env-one", "limit": 500})).json()
    assert [(one["name"], one["latest_version"], one["id"]) for one in found["items"]] == [
        ("demo-env-one", "1", status["registry_id"])
    ]
    assert deploying.environments.built[-1].declared_name == "Demo_Env One"


async def test_a_failed_build_keeps_its_number_and_the_last_version_serves_on(deploying: Deploying):
    first = await deploying.deploy("failing")
    failed = await deploying.deploy("failing", archive(broken="NameError: name 'x' is not defined"))
    assert (failed["status"], failed["version"]) == ("FAILED", "2")
    assert failed["error_message"] == "NameError: name 'x' is not defined"
    serving = (await deploying.team.http.get(f"/v2/registry/{first['registry_id']}")).json()
    assert serving["latest_version"] == "1"
    third = await deploying.deploy("failing")
    assert (third["version"], third["registry_id"]) == ("3", first["registry_id"])


async def test_an_environment_whose_only_build_failed_says_so_with_its_reason_and_page(deploying: Deploying):
    failed = await deploying.deploy("never-built", archive(broken="env.py, line 3: SyntaxError: invalid syntax"))
    refused = await deploying.team.http.post("/runtime/sessions", json={"environment": "Never_Built"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert refused.json()["detail"] == (
        "no version of the environment 'never-built' serves: the build of version 1 failed: env.py, line 3: "
        f"SyntaxError: invalid syntax; mend that and deploy again (see /environments/{failed['registry_id']})"
    )


async def test_a_repeated_trigger_is_answered_the_same_and_builds_once(deploying: Deploying, database: AsyncDatabase):
    build_id = await deploying.upload()
    answers = [(await deploying.trigger(build_id, "repeated")).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    other = await deploying.trigger(build_id, "repeated", no_cache=True)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    await deploying.ended(build_id)
    assert (await deploying.trigger(build_id, "repeated")).json() == answers[0]
    async with database.session() as session:
        query = select(func.count()).where(PlacementRow.build_id == uuid.UUID(build_id))
        assert await session.scalar(query) == 1


async def test_secrets_are_kept_until_they_are_set_anew_and_shown_to_nobody(deploying: Deploying):
    await deploying.deploy("secretive", environment_variables={"A": "sesame-1", "B": "sesame-2"})
    again = await deploying.deploy(
        "secretive", environment_variables={"B": "sesame-3"}, build_secrets={"TOKEN": "sesame-4"}, build_args={"X": "1"}
    )
    built = deploying.environments.built[-1]
    assert built.variables == {"A": "sesame-1", "B": "sesame-3"}
    assert (built.build_secrets, built.build_args) == ({"TOKEN": "sesame-4"}, {"X": "1"})
    shown = (await deploying.team.http.get(f"/v2/registry/{again['registry_id']}")).text + json.dumps(again)
    assert "sesame" not in shown


async def test_the_log_comes_from_its_first_line_however_often_it_is_asked_for(deploying: Deploying, origin: str):
    build_id = await deploying.upload()
    await deploying.trigger(build_id, "logged")
    following = await frames(deploying.team, origin, build_id)
    await deploying.ended(build_id)
    afterwards = await frames(deploying.team, origin, build_id)
    for seen in (following, afterwards):
        lines = [frame for frame in seen if frame["type"] == "log"]
        assert [line["message"] for line in lines] == ["unpacking", "built"]
        assert all(isinstance(line["timestamp"], int) for line in lines)
        assert (seen[-1]["type"], seen[-1]["final_status"]) == ("complete", "SUCCEEDED")


async def test_the_log_of_another_team_and_a_wrong_key_are_refused(deploying: Deploying, origin: str, other_team: Team):
    build_id = await deploying.upload()
    (frame,) = await frames(other_team, origin, build_id)
    assert frame["type"] == "error"
    assert frame["error"].startswith(f"there is no build {build_id}")
    with pytest.raises(ConnectionClosed, match="4003"):
        await frames(deploying.team, origin, build_id, "hw_wrong")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"runtime_config": {"image": "x"}}, "runtime_config.image"),
        ({"runtime_config": {"compose": {}}}, "runtime_config.compose"),
        ({"runtime_config": {"resources": {"gpu": {"count": 1}}}}, "runtime_config.resources.gpu"),
        ({"runtime_config": {"resources": {"os": "windows"}}}, "runtime_config.resources.os"),
        ({"runtime_config": {"resources": {"wings": 2}}}, "wings"),
        ({"runtime_config": {"limits": {"run_timeout_s": -1}}}, "run_timeout_s"),
        ({"runtime_provider": "modal"}, "modal"),
        ({"environment_variables": {"A=B": "x"}}, "environment_variables"),
        ({"environment_variables": {"A": "a\u0000b"}}, "NUL"),
        ({"surprise": 1}, "surprise"),
        ({"name": " "}, "name"),
        ({"name": "Headway Graded"}, "the service's own"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_by_name_and_nothing_is_built(deploying: Deploying, fields, words):
    build_id = await deploying.upload()
    refused = await deploying.trigger(build_id, fields.pop("name", "refused"), **fields)
    assert refused.status_code == 422, refused.text
    assert words in refused.json()["detail"]
    assert (await deploying.team.http.get(f"/v2/builds/{build_id}/status")).json()["status"] == "PENDING"


async def test_what_was_asked_of_the_machine_reaches_the_runner(deploying: Deploying):
    config = {"resources": {"cpu": 2, "memory_mb": 512}, "limits": {"startup_timeout_s": 5}}
    await deploying.deploy("sized", runtime_config=config)
    assert deploying.environments.built[-1].runtime_config == config


async def test_an_upload_is_its_address_and_no_key_opens_it(deploying: Deploying, origin: str):
    begun = (await deploying.team.http.post("/v2/builds/upload-url")).json()
    url = begun["upload_url"]
    assert url.startswith(f"{origin}/v2/builds/{begun['build_id']}/archive?token=hw_up-")
    for wrong in (url[:-1], url.partition("?")[0], url.replace(begun["build_id"], str(uuid.uuid4()))):
        assert (await deploying.team.http.put(wrong, content=archive())).status_code == 404
    headers = {"Authorization": "Bearer of-something-else"}
    assert (await httpx.AsyncClient(trust_env=False).put(url, content=archive(), headers=headers)).status_code == 200
    assert (await deploying.trigger(begun["build_id"], "addressed")).status_code == 200
    assert (await deploying.team.http.put(url, content=archive())).status_code == 409


async def test_a_deployment_without_an_archive_or_of_another_team_is_refused(deploying: Deploying, other_team: Team):
    begun = (await deploying.team.http.post("/v2/builds/upload-url")).json()
    empty = await deploying.trigger(begun["build_id"], "empty")
    assert (empty.status_code, "archive has not been sent" in empty.json()["detail"]) == (409, True)
    build_id = await deploying.upload()
    body = {"source": "direct", "build_id": build_id, "name": "stolen"}
    assert (await other_team.http.post("/v2/builds/trigger", json=body)).status_code == 404
    assert (await other_team.http.get(f"/v2/builds/{build_id}/status")).status_code == 404


async def test_uploads_that_nobody_deploys_keep_nobody_from_deploying(origin: str, database: AsyncDatabase):
    async with new_team(origin, database) as team:
        begun = [(await team.http.post("/v2/builds/upload-url")).json() for _ in range(66)]
        sent = [await team.http.put(begun[which]["upload_url"], content=archive()) for which in (0, 1, 2, 65)]
        assert [reply.status_code for reply in sent] == [404, 404, 200, 200]
        assert "run the deployment again" in sent[0].json()["detail"]
        body = {"source": "direct", "build_id": begun[65]["build_id"], "name": "last"}
        assert (await team.http.post("/v2/builds/trigger", json=body)).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", archive()[:40], b"\x1f\x8b" + b"x" * 100_000],
    ids=["nothing", "no archive", "half of one", "no gzip behind its header"],  # a gzip holds the time
)
async def test_what_is_no_archive_is_refused(deploying: Deploying, content: bytes):
    begun = (await deploying.team.http.post("/v2/builds/upload-url")).json()
    refused = await deploying.team.http.put(begun["upload_url"], content=content)
    assert (refused.status_code, "no gzip-compressed tar" in refused.json()["detail"]) == (422, True)
    assert (await deploying.trigger(begun["build_id"], "none")).status_code == 409


async def test_an_archive_over_the_limit_is_refused(deploying: Deploying):
    begun = (await deploying.team.http.post("/v2/builds/upload-url")).json()
    refused = await deploying.team.http.put(begun["upload_url"], content=archive() + b"\0" * 1024**2)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert "1000000 bytes" in refused.json()["detail"]


async def test_an_environment_that_is_named_by_its_id_has_to_have_the_name(deploying: Deploying):
    first = await deploying.deploy("first-name")
    second = await deploying.deploy("second-name")
    build_id = await deploying.upload()
    refused = await deploying.trigger(build_id, "Second Name", registry_id=first["registry_id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "name_conflict")
    assert isinstance(refused.json()["detail"], str)
    body = {"source": "direct", "build_id": build_id, "name": "Second Name", "registry_id": first["registry_id"]}
    old = await deploying.team.http.post("/builds/trigger", json=body)
    detail = old.json()["detail"]
    assert (detail["existing_name"], detail["existing_registry_id"]) == ("second-name", second["registry_id"])
    assert (await deploying.trigger(build_id, "second name", registry_id=str(uuid.uuid4()))).status_code == 404
    assert (await deploying.trigger(build_id, "second name", registry_id=second["registry_id"])).status_code == 200


async def test_tasks_of_a_deployed_environment_have_to_be_ones_that_it_has(deploying: Deploying):
    await deploying.deploy("Checked_Env")
    http = deploying.team.http

    async def upload(**row: Any) -> httpx.Response:
        task = {"name": "a-slug", "env": {"name": "Checked_Env"}, "task_id": "reply", "args": {"n": 1}, **row}
        good = {"name": "good", "env": {"name": "elsewhere"}, "task_id": "whatever"}
        return await http.post("/v2/tasks/upload", json={"taskset_name": "checked", "tasks": [good, task]})

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"task_id": "answer"}, "has no task 'answer'; it has: 'reply'"),
        ({"args": {}}, "args lacks 'n'"),
        ({"args": {"n": "one"}}, "args.n must be integer"),
        ({"env": {"name": "checked env"}, "task_id": "answer"}, "has no task 'answer'"),
        ({"verifier": {"env": "checked-env", "id": "judge"}}, "has no task 'judge'"),
    ]
    for row, words in wrong:
        refused = await upload(**row)
        assert refused.status_code == 422, row
        assert "tasks[1] ('a-slug')" in refused.json()["detail"]
        assert words in refused.json()["detail"]
    assert (await http.get("/v2/tasksets/by-name/checked")).status_code == 404
    row = {"runtime_config": {"resources": {"cpu": 1.5}}, "agent_config": {"x": 1}, "columns": {"c": [1]}}
    row["verifier"] = {"env": "Checked_Env", "id": "reply", "args": {"n": 2}}
    taskset = (await upload(**row)).json()["taskset_id"]
    exported = (await http.get(f"/v2/tasksets/{taskset}/export")).json()["tasks"]
    assert {name: exported[1][name] for name in row} == row


async def test_a_removed_environment_runs_no_more_until_it_is_deployed_again(deploying: Deploying, other_team: Team):
    deployed = await deploying.deploy("removed", environment_variables={"A": "old"})
    path, http = f"/v2/registry/{deployed['registry_id']}", deploying.team.http
    assert (await other_team.http.delete(path)).status_code == 404
    assert (await http.delete(path)).json() == {"name": "removed"}
    assert (await http.get(path)).status_code == 404
    assert (await http.post("/runtime/sessions", json={"environment": "removed"})).status_code == 404
    again = await deploying.deploy("removed")
    assert (again["registry_id"], again["version"]) == (deployed["registry_id"], "2")
    assert deploying.environments.built[-1].variables == {}


async def test_the_client_of_0_5_41_finds_environments_by_its_own_paths(deploying: Deploying):
    deployed = await deploying.deploy("old-client")
    headers = {"X-API-Key": deploying.team.key}
    listed = await deploying.team.http.get("/registry/envs", params={"search": "old-client"}, headers=headers)
    assert [(one["id"], one["name"], one["latest_version"]) for one in listed.json()] == [
        (deployed["registry_id"], "old-client", "1")
    ]
    one = await deploying.team.http.get(f"/registry/envs/{deployed['registry_id']}")
    assert one.json()["name"] == "old-client"
    begun = (await deploying.team.http.post("/builds/upload-url")).json()
    assert (await deploying.team.http.get(f"/builds/{begun['build_id']}/status")).json()["status"] == "PENDING"


async def test_the_pages_show_versions_what_is_offered_and_the_log(deploying: Deploying, origin: str):
    await deploying.deploy("shown-env", environment_variables={"A": "sesame"})
    failed = await deploying.deploy("shown-env", archive(broken="<b>SyntaxError</b>"))
    async with httpx.AsyncClient(base_url=origin, headers={"Accept": "text/html"}, trust_env=False) as browser:
        assert (await browser.post("/login", data={"key": deploying.team.key})).status_code == 303
        listed = (await browser.get("/environments")).text
        assert f'href="/environments/{failed["registry_id"]}"' in listed
        shown = (await browser.get(f"/environments/{failed['registry_id']}")).text
        assert "&lt;b&gt;SyntaxError&lt;/b&gt;" in shown
        assert "version 1" in shown
        assert "reply" in shown
        assert "unpacking" in shown
        assert "sesame" not in shown
        first = await browser.get(f"/environments/{failed['registry_id']}?version=1")
        assert "Log of version 1" in first.text
        assert (await browser.get(f"/environments/{failed['registry_id']}?version=7")).status_code == 404
        assert (await browser.get(f"/environments/{uuid.uuid4()}")).status_code == 404


async def test_keys_in_addresses_are_in_no_log(deploying: Deploying, origin: str, caplog):
    caplog.set_level(logging.DEBUG)
    with capture_logs() as lines:
        build_id = await deploying.upload()
        await deploying.trigger(build_id, "quiet")
        await frames(deploying.team, origin, build_id)
        async with asyncio.timeout(10):
            while not any(line["event"] == "websocket" for line in lines):  # noqa: ASYNC110 - it has closed
                await asyncio.sleep(0.01)
    paths = {line["path"] for line in lines if "path" in line}
    assert {f"/v2/builds/{build_id}/logs", f"/v2/builds/{build_id}/archive"} <= paths
    of_others = ("websockets.client", "httpx", "httpcore", "uvicorn.access")  # clients', and what servers turn off
    ours = [record for record in caplog.records if not record.name.startswith(of_others)]
    for text in (str(lines), *(record.getMessage() for record in ours)):
        assert "api_key" not in text
        assert "hw_up-" not in text
        assert deploying.team.key not in text


async def test_what_is_everybodys_is_found_by_all_and_changed_by_operators(
    team: Team, other_team: Team, database: AsyncDatabase
):
    name = f"common-{uuid.uuid4().hex[:8]}"
    async with database.session() as session:
        common = await deployed_environment_of(session, None, name)
        own = await deployed_environment_of(session, await ensure_team(session, other_team.name), name)
        operator = await create_key(session, other_team.name, "operator", role="admin")
    for one, expected in ((team, common), (other_team, own)):
        (found,) = (await one.http.get("/v2/registry", params={"search": name})).json()["items"]
        assert (found["id"], found["everybody"]) == (str(expected.id), expected is common)
        assert (await one.http.post("/runtime/sessions", json={"environment": name})).status_code == 200
    path = f"/v2/registry/{common.id}"
    refused = await team.http.delete(path)
    assert (refused.status_code, "an operator can remove it" in refused.json()["detail"]) == (403, True)
    assert (await team.http.get(f"/v2/builds/{common.current_build_id}/status")).status_code == 404
    headers = {"Authorization": f"Bearer {operator}"}
    assert (await team.http.delete(path, headers=headers)).status_code == 200
    assert (await team.http.get(path)).status_code == 404
    assert (await other_team.http.get(f"/v2/registry/{own.id}")).status_code == 200
