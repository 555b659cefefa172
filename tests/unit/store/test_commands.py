"""`headway gc`, `pin`, `verify`, `doctor`, `backup`, `restore` as an operator meets them."""

from __future__ import annotations

import json

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from store.tables import ApiKeyRow
from tests.ports.checkpoint_places import FilePlace
from tests.unit.store.conftest import Estate


def headway(estate: Estate, *arguments: str, folder: str = "") -> Result:
    environment = {
        "HEADWAY_DATABASE_URL": estate.database.url.render_as_string(hide_password=False),
        "HEADWAY_DATA_DIR": str(estate.folder / folder),
        "HEADWAY_KEEP_LAST_STATES": "1",
        "HEADWAY_KEEP_EVERY_STATES": "0",
    }
    return CliRunner().invoke(app, arguments, env=environment)


def test_gc_lists_with_dry_run_and_removes_without(estate: Estate):
    nodes = estate.steps(3)
    listed = headway(estate, "gc", "--dry-run")
    assert listed.exit_code == 0, listed.output
    assert f"would remove optimizer state {estate.world.model_id.hex}/{nodes[0].hex}" in listed.stdout
    assert estate.with_state() == set(nodes)
    removed = headway(estate, "gc", "--json")
    assert {r["what"] for r in json.loads(removed.stdout)["removed"]} == {"optimizer state"}
    assert estate.with_state() == {nodes[-1]}
    assert headway(estate, "gc").stdout == "nothing to remove\n"


def test_pin_keeps_and_unpin_gives_back(estate: Estate):
    nodes = estate.steps(3)
    name = estate.row(nodes[0]).name
    assert headway(estate, "pin", "fork", name).stdout == f"pinned {name}\n"
    headway(estate, "gc")
    assert estate.with_state() == {nodes[0], nodes[-1]}
    assert headway(estate, "unpin", "fork", name).exit_code == 0
    headway(estate, "gc")
    assert estate.with_state() == {nodes[-1]}
    refused = headway(estate, "pin", "fork", "nothing")
    assert refused.exit_code == 1
    assert refused.stderr == "headway: model 'fork' has no checkpoint 'nothing'\n"


def test_verify_names_what_is_harmed_and_fails(estate: Estate):
    checkpoint = estate.step()
    assert headway(estate, "verify").exit_code == 0
    estate.path(checkpoint, "state/state.safetensors").write_bytes(b"?")
    found = headway(estate, "verify")
    assert found.exit_code == 1
    assert "changed: state/state.safetensors of checkpoint 0001-" in found.stdout
    (damage,) = json.loads(headway(estate, "verify", "--json").stdout)["damages"]
    assert (damage["what"], damage["path"]) == ("changed", "state/state.safetensors")


def test_doctor_names_what_does_not_hold_and_fails(estate: Estate):
    checkpoint = estate.step()
    healthy = headway(estate, "doctor", "--files")
    assert (healthy.exit_code, healthy.stdout.rstrip()[-15:]) == (0, "invariants hold")
    estate.path(checkpoint, "adapter/adapter_model.safetensors").unlink()
    estate.operation("forward", state="done")
    ill = headway(estate, "doctor", "--files")
    assert ill.exit_code == 1
    assert "ended operations have an outcome: does not hold" in ill.stdout
    names = [v["name"] for v in json.loads(headway(estate, "doctor", "--files", "--json").stdout)["violations"]]
    assert names == ["ended operations have an outcome", "committed checkpoints have their files"]


@pytest.mark.parametrize("target", ["backup", "backup.tar"])
def test_backup_and_restore_round_trip_and_print_no_secret(estate: Estate, other_database, target: str):
    estate.steps(2)
    estate.operation("forward_backward", payload_blob=estate.blobs.put(b"batch"))
    with estate.database.session() as session:
        session.add(
            ApiKeyRow(
                team_id=estate.world.team_id,
                name="ci",
                prefix="hw_secret",
                key_hash=b"hash of a key",
                role="viewer",
                scopes=["read"],
            )
        )
    path = estate.folder / target
    backed_up = headway(estate, "backup", "--to", str(path))
    assert backed_up.exit_code == 0, backed_up.output
    assert headway(estate, "backup", "--to", str(path)).exit_code == 1
    refused = headway(estate, "restore", "--from", str(path), folder="new")
    assert refused.exit_code == 1
    assert "the database is not empty" in refused.stderr
    there = Estate(other_database, estate.world, estate.folder / "elsewhere", FilePlace(estate.folder / "elsewhere"))
    restored = headway(there, "restore", "--from", str(path))
    assert restored.exit_code == 0, restored.output
    assert "/nowhere" in restored.stderr, "the base's weights have to be brought along"
    assert [headway(there, command).exit_code for command in ("verify", "doctor")] == [0, 0]
    assert "hw_secret" not in backed_up.output + restored.output


@pytest.mark.parametrize("command", [("gc",), ("verify",), ("doctor",), ("backup", "--to", "x"), ("pin", "m", "c")])
def test_a_database_that_is_away_is_said_in_one_sentence(estate: Estate, command: tuple[str, ...]):
    away = {"HEADWAY_DATABASE_URL": "postgresql://u@127.0.0.1:1/d", "HEADWAY_DATA_DIR": str(estate.folder)}
    done = CliRunner().invoke(app, command, env=away)
    assert done.exit_code == 1
    assert done.stderr.startswith("headway: the database does not answer")
    assert done.stderr.count("\n") == 1


def test_a_backup_that_is_not_there_is_refused(estate: Estate):
    assert "there is no backup at" in headway(estate, "restore", "--from", "/nowhere").stderr
