"""Commands that list: each has --json, and each id that it shows can be handed to the next command, wherever it was
printed."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from cli.in_session import in_session
from cli.start import app_for
from server.audit.recording import COMMAND_LINE
from server.auth.service import create_key
from server.upstreams import catalog
from server.upstreams.types import Upstream
from store.catalog import ensure_base
from store.database import Database
from store.planes.registration import register_sampler, register_trainer
from store.tables import AlarmRow, EnvironmentRow, ModelRow, RunnerRow, TeamRow
from tests.unit.cli.test_tables import ALL, command_at, ended, printed

TEAM = "team-with-a-name-of-its-own"
PRINTS = re.compile(r"\b(show|show_items|_show|_list_planes|print_json)\(")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


LISTING = [
    path
    for path in ALL
    if (callback := command_at(path).callback) is not None
    and path
    and PRINTS.search(inspect.getsource(inspect.unwrap(callback)))
]


def test_commands_that_list_were_found():
    found = {" ".join(path) for path in LISTING}
    expected = {"keys list", "team list", "quota show", "envs list", "runners list", "runs list", "upstreams list"}
    assert expected | {"status", "audit", "drain", "report trainability"} <= found


@pytest.mark.parametrize("path", LISTING, ids=" ".join)
def test_each_command_that_lists_prints_json_if_asked(path: tuple[str, ...]):
    assert "--json" in [option for parameter in command_at(path).params for option in parameter.opts]


@pytest.fixture
def furnished(database: Database, tmp_path: Path) -> tuple[str, ...]:
    """Options of a command that finds one of each thing."""
    url = database.url.render_as_string(hide_password=False)
    in_session(url, lambda session: create_key(session, TEAM, "a key"))
    with database.session() as session:
        base_id = ensure_base(session, "a-base-with-a-long-name-of-its-own", "/nowhere")
        register_trainer(session, base_id, {})
        register_sampler(session, base_id, "http://127.0.0.1:1", "local")
        team_id = session.query(TeamRow).one().id
        session.add(ModelRow(team_id=team_id, slug="arith", name="arith", base_id=base_id, lora={}))
        session.add(EnvironmentRow(team_id=team_id, name="sums", declared_name="sums"))
        facts: dict[str, Any] = {"kinds": ["build"], "isolation": "users", "versions": {"headway": "1"}}
        session.add(RunnerRow(host="a-host", pid=1, slots=4, **facts))
    upstream = Upstream(api="openai", base_url="https://host/v1", model="m", key_file="/key")
    in_session(url, lambda session: catalog.add_upstream(session, "vendor", upstream, COMMAND_LINE))
    return ("--database-url", url, "--data-dir", str(tmp_path))


def on_a_terminal(width: int, *arguments: str) -> str:
    """What a command prints to a terminal of that width."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    before, sys.stdout = sys.stdout, Terminal()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(width))
            app_for(arguments)([*arguments])
    except SystemExit as end:
        assert not end.code
    finally:
        shown, sys.stdout = sys.stdout, before
    return shown.getvalue()


OF_THE_DATABASE = [
    ("keys", "list"),
    ("team", "list"),
    ("quota", "show", TEAM),
    ("envs", "list"),
    ("runners", "list"),
    ("upstreams", "list"),
    ("drain",),
    ("audit",),
]


def test_ids_are_whole_at_40_columns_in_a_pipe_and_in_json(furnished: tuple[str, ...]):
    for command in OF_THE_DATABASE:
        found = json.loads(printed("utf-8", *command, "--json", *furnished))
        items = found.get("items", [found])
        assert (bool(items), found.get("next_cursor")) == (True, None), command
        lines = printed("utf-8", *command, *furnished).splitlines()
        assert len({line.count("\t") for line in lines}) == 1, command
        whole = {str(item.get("id", "")) for item in items} if command != ("audit",) else set[str]()
        for shown in ("\n".join(lines), on_a_terminal(40, *command, *furnished)):
            assert whole <= {*ID.findall(shown)} or command == ("upstreams", "list"), command


def test_status_is_json_too_and_says_what_was_loaded(furnished: tuple[str, ...]):
    found = json.loads(printed("utf-8", "status", "--json", *furnished))
    assert {plane["plane"] for plane in found["planes"]} == {"trainer", "sampler", "runner"}
    (runner,) = [plane for plane in found["planes"] if plane["plane"] == "runner"]
    assert runner["details"] == {"version": "1", "isolation": "users", "slots": 4}
    assert "isolation by users, 4 slots; Headway 1" in printed("utf-8", "status", *furnished)


def test_status_names_paused_models_and_open_alarms(furnished: tuple[str, ...], database: Database):
    assert printed("utf-8", "pause", "arith", "--reason", "a strange reward", *furnished)
    with database.session() as session:
        model_id = session.scalar(select(ModelRow.id).where(ModelRow.slug == "arith"))
        found: dict[str, Any] = {"evidence": {}, "actions": [], "state": "noted", "outcome": {}, "step": 3}
        rule = {"rule": "kl_ceiling", "message": "the KL is 9 nats", "subject_id": uuid4()}
        session.add(AlarmRow(model_id=model_id, **rule, **found))
    shown = printed("utf-8", "status", *furnished)
    assert re.search(rf"^arith\t{TEAM}\tadmin\t[0-9 :-]+\ta strange reward$", shown, re.M)
    assert re.search(rf"^arith\t{TEAM}\tkl_ceiling\t3\t[0-9 :-]+\tnoted\tthe KL is 9 nats$", shown, re.M)


def test_the_first_characters_of_an_id_and_names_are_taken(furnished: tuple[str, ...]):
    (runner,) = json.loads(printed("utf-8", "runners", "list", "--json", *furnished))["items"]
    for reference in (runner["id"], runner["id"][:6], runner["id"].upper(), "a-host"):
        assert printed("utf-8", "runners", "drain", reference, *furnished)
    (key,) = json.loads(printed("utf-8", "keys", "list", "--json", *furnished))["items"]
    assert printed("utf-8", "keys", "rotate", "a key", *furnished)
    assert UUID(key["id"])


def test_what_is_meant_by_several_is_refused_with_all_of_them(furnished: tuple[str, ...]):
    assert printed("utf-8", "keys", "create", "a key", "--team", TEAM, *furnished)
    ids = [key["id"] for key in json.loads(printed("utf-8", "keys", "list", "--json", *furnished))["items"]]
    status, sentence = ended("keys", "revoke", "a key", *furnished)
    assert status == 1
    assert all(one in sentence for one in ids)
    status, sentence = ended("runners", "drain", "nobody", *furnished)
    assert (status, "see 'headway runners list'" in sentence) == (1, True)
