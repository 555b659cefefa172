"""`headway model` against a server."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.contract.conftest import Team


async def headway(team: Team, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Exit status and what was printed, in a thread: the server is in this process, and logs to the same stdout."""
    where = ("--url", str(team.http.base_url), "--key", team.key)
    done: Any = await asyncio.to_thread(CliRunner().invoke, app, ["model", *arguments, *where], input=typed)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, "".join(
        line for line in done.output.splitlines(keepends=True) if not line.startswith("\x1b[2m")
    )


@pytest.fixture
async def stepped(team: Team, model: dict[str, Any]) -> str:
    """The name of a model with two checkpoints."""
    for _ in range(2):
        await team.step(model["id"])
    return model["model_name"]


async def test_a_model_is_listed_shown_renamed_described_and_tagged(team: Team, stepped: str):
    new = f"n-{uuid.uuid4().hex[:8]}"
    assert (await headway(team, "describe", stepped, "Adds numbers"))[0] == 0
    assert await headway(team, "tag", stepped, "sums", "paper") == (0, f"{stepped} has the tags: sums, paper\n")
    assert await headway(team, "tag", stepped, "--remove", "sums") == (0, f"{stepped} has the tags: paper\n")
    assert (await headway(team, "tag", stepped, "--remove", "sums"))[0] == 1
    assert (await headway(team, "rename", stepped, new))[0] == 0
    status, listed = await headway(team, "list", "--tag", "paper")
    assert (status, new in listed, "Adds numbers" in listed, "Tiny-Base\t\t" in listed) == (0, True, True, False)
    status, shown = await headway(team, "show", new, "--json")
    found = json.loads(shown)
    assert (found["contents"]["num_checkpoints"], len(found["checkpoints"])) == (2, 2)
    assert "0002-" in (await headway(team, "show", new))[1]
    assert "no model" in (await headway(team, "show", stepped))[1]
    assert "base" in (await headway(team, "show", "Tiny-Base"))[1]


async def test_deleting_shows_what_hangs_on_it_and_takes_its_name(team: Team, stepped: str):
    status, said = await headway(team, "delete", stepped, typed="something\n")
    assert (status, "2, 0 bytes" in said, "nothing was deleted" in said) == (1, True, True)
    status, said = await headway(team, "delete", stepped, "--yes")
    assert (status, "--yes needs --checkpoints 2" in said) == (1, True)
    status, said = await headway(team, "delete", stepped, "--yes", "--checkpoints", "1")
    assert (status, "checkpoints=2" in said) == (1, True)
    nodes = (await team.http.get(f"/v2/models/{stepped}/checkpoints")).json()
    assert "it is the head" in (await headway(team, "delete-checkpoint", stepped, "head"))[1]
    assert (await headway(team, "delete-checkpoint", stepped, nodes[0]["name"]))[0] == 0
    status, said = await headway(team, "delete", stepped, typed=f"{stepped}\n")
    assert (status, said.endswith(f"deleted {stepped}\n")) == (0, True)
    assert "no model" in (await headway(team, "delete", stepped, "--yes", "--checkpoints", "2"))[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "nothing"), "there is no model 'nothing'"),
        (("export", "Tiny-Base"), "which has no adapter"),
        (("export", "a", "--dtype", "float32"), "--dtype is for --merged"),
        (("push", "a", "not a/repo"), "is no repository"),
        (("import", "/nowhere", "--base", "Tiny-Base", "--name", "x"), "there is nothing at /nowhere"),
        (("import", "/tmp", "--base", "Tiny-Base", "--name", "x"), "has no adapter_config.json"),
    ],
)
async def test_what_cannot_be_is_one_sentence(standing_team: Team, arguments: tuple[str, ...], sentence: str):
    status, said = await headway(standing_team, *arguments)
    assert (status, sentence in said) == (1, True), said
    assert len(said.splitlines()) == 1
