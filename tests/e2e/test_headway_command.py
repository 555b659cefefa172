"""The `headway` command as an operator meets it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.box.fork_server import can_fork_planes
from tests.conftest import database_folder
from tests.e2e.box import Box, open_to_others
from tests.forked_command import Command
from tests.postgres_template import lay_out

HEADWAY = Command(
    str(Path(sys.executable).with_name("headway")),
    "cli.start:start",
    ("cli.box.trainers", "cli.box.up", "cli.commands.bases", "cli.commands.keys", "cli.commands.status"),
    runs_exit_functions=True,
)


def headway(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`headway ARGS` with this process's environment and these changes to it."""
    return HEADWAY.run(args, Path.cwd(), {**os.environ, "COLUMNS": "220", **environment})


def test_keys_are_made_listed_and_revoked(box: Box):
    where = ("--data-dir", str(box.data_dir))
    made = headway("keys", "create", "ci", "--team", "blues", *where)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("hw_")
    assert made.stderr.strip().endswith(f": tml-{key}")
    other_spelling = {"Authorization": f"Bearer tml-{key}"}
    assert httpx.get(f"{box.url}/v2/models", headers=other_spelling, trust_env=False).status_code == 200
    blue = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{box.url}/v2/models", headers=blue, trust_env=False).status_code == 200

    listed = headway("keys", "list", *where).stdout
    assert "blues" in listed
    assert key not in listed

    assert headway("keys", "revoke", f"tml-{key[:10]}", *where).returncode == 0
    refused = httpx.get(f"{box.url}/v2/models", headers=blue, trust_env=False)
    assert refused.status_code == 401
    assert "revoked" in refused.json()["detail"]
    unknown = headway("keys", "revoke", "hw_nothing", *where)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.count("\n") == 1


def test_another_teams_model_does_not_exist(box: Box):
    model_id = box.fork("reds-own")
    made = headway("keys", "create", "spy", "--team", "greens", "--data-dir", str(box.data_dir))
    green = {"Authorization": f"Bearer {made.stdout.strip()}"}
    for method, path, body in [
        ("GET", f"/v2/models/{model_id}/checkpoints", None),
        ("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": None}),
        ("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3}),
        ("POST", "/v1/chat/completions", {"model": "reds-own", "messages": [{"role": "user", "content": "1"}]}),
        ("POST", "/v2/models/fork", {"source_model_id": model_id, "name": "stolen"}),
    ]:
        reply = httpx.request(method, box.url + path, json=body, headers=green, trust_env=False)
        assert reply.status_code == 404, (path, reply.text)
    names = [m["model_name"] for m in httpx.get(f"{box.url}/v2/models", headers=green, trust_env=False).json()["items"]]
    assert names == ["tiny-arith"]


def test_status_shows_planes_and_models(box: Box):
    box.fork("shown-in-status")
    shown = headway("status", "--data-dir", str(box.data_dir))
    assert shown.returncode == 0, shown.stderr
    for word in ("trainer", "sampler", "live", "shown-in-status", "base weights"):
        assert word in shown.stdout


def test_the_env_file_is_for_its_owner_alone(box: Box):
    assert (box.data_dir / "env").stat().st_mode & 0o077 == 0
    assert set(box.env) >= {"HUD_API_URL", "HUD_RL_URL", "HUD_GATEWAY_URL", "HUD_TELEMETRY_URL", "HUD_API_KEY"}


def test_no_key_is_logged_or_stored(box: Box):
    secret = box.env["HUD_API_KEY"]
    box.call("GET", "/v2/models")
    logs = [p.read_text(errors="replace") for p in (box.data_dir / "logs").glob("*.log")]
    assert len(logs) == 5
    secrets = [secret, (box.data_dir / "runner-key").read_text()]
    assert not [text for text in logs if any(one in text for one in secrets)]
    dump = headway("keys", "list", "--data-dir", str(box.data_dir)).stdout
    assert secret not in dump


def test_the_api_describes_itself_and_says_who_is_ready(box: Box):
    description = httpx.get(f"{box.url}/openapi.json", trust_env=False).json()
    assert "/v2/models/fork" in description["paths"]
    assert httpx.get(f"{box.url}/docs", trust_env=False).status_code == 200
    assert httpx.get(f"{box.url}/healthz", trust_env=False).status_code == 200
    ready = httpx.get(f"{box.url}/readyz", trust_env=False)
    assert "tiny-arith" in json.dumps(ready.json())


@pytest.fixture(scope="module")
def refused_in() -> Iterator[Path]:
    """One data folder for all that `up` refuses, with a database."""
    with database_folder() as folder:
        yield lay_out(folder / "data" / "postgres").parent


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no base model yet"),
        (("--base", "a/b=."), "cannot be the name of a base model"),
        (("--base", "./nowhere"), "there is no model at ./nowhere"),
        (("--database-url", "mysql://u@h/d"), "needs PostgreSQL"),
        (("--database-url", "postgresql://u@127.0.0.1:1/d", "--base", "x=y"), "does not answer"),
    ],
)
def test_up_says_in_one_sentence_why_it_cannot_start(refused_in: Path, arguments: tuple[str, ...], sentence: str):
    done = headway("up", "--data-dir", str(refused_in), "--port", "0", *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("headway: ")
    assert "Traceback" not in done.stderr


def test_up_refuses_a_port_that_is_taken(refused_in: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = headway("up", "--data-dir", str(refused_in), "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.slow
def test_up_names_weights_that_do_not_load(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "qwen3"}')
    with database_folder() as folder:
        done = headway("up", "--data-dir", str(folder / "data"), "--port", "0", "--base", str(tmp_path / "broken"))
    assert done.returncode == 1
    assert "could not start" in done.stderr


UNDER_UP = """
import os, sys, urllib.request
from tests.e2e.test_forked_planes import child, shared_mib
urllib.request.urlopen(os.environ["HUD_API_URL"] + "/readyz")
print("shared", *(shared_mib(child(os.getppid(), f"cli {plane}")) > 150 for plane in ("trainer", "sampler")))
sys.exit(7)
"""


def test_a_command_runs_under_up_and_gives_its_status_whatever_the_data_folder_is_called(tiny_base: Path):
    with database_folder() as folder:
        data = folder / 'it\'s "my" dätä (100% #1, $HOME?)' / ("-" + "x" * 200)
        where = ("--data-dir", str(data), "--port", "0", "--base", f"tiny-arith={tiny_base}")
        up = [sys.executable, "-m", "cli", "up", *where, "--host", "::1", "--", sys.executable, "-c", UNDER_UP]
        done = subprocess.run(up, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "220"})
        opened = open_to_others(data)
        told = shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("or: ")))
    assert done.returncode == 7, done.stdout + done.stderr
    assert opened == []
    assert told == ["or:", "source", str(data / "env")]
    assert "http://[::1]:" in done.stdout
    if can_fork_planes():
        assert "\nshared True True\n" in done.stdout, "trainer and sampler come from one process"
