"""The files that point clients at a box, and the lock that keeps them right."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from pathlib import Path

import httpx
import pytest

from cli.service.environment import read_env, write_env
from tests.e2e.box import Box, open_to_others
from tests.e2e.test_headway_command import headway

EXPORTS = {"HUD_API_URL": "http://[::1]:8420", "HUD_API_KEY": "hw_x"}


def sourced(env: Path, shell: str, command: str, **environment: str) -> str:
    script = f'. "$ENV_FILE"; {command}'
    clean = {"PATH": os.environ["PATH"], "ENV_FILE": str(env), **environment}
    return subprocess.check_output([shell, "-c", script], env=clean, text=True).strip()


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_both_spellings_of_no_proxy_name_this_machine_and_what_either_held(tmp_path: Path, shell: str, name: str):
    write_env(tmp_path / "env", EXPORTS)
    for spelling in ("no_proxy", "NO_PROXY"):
        seen = sourced(tmp_path / "env", shell, f'printf %s "${spelling}"', **{name: "corp.local, other.local"})
        assert seen == "127.0.0.1,localhost,::1,corp.local, other.local"


def test_calls_to_this_machine_pass_the_proxy_by_where_no_proxy_was_set_in_small_letters(tmp_path: Path, monkeypatch):
    write_env(tmp_path / "env", EXPORTS)
    monkeypatch.setenv("no_proxy", sourced(tmp_path / "env", "sh", "printf %s $no_proxy", no_proxy="corp.local"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert urllib.request.proxy_bypass("corp.local")
    assert not urllib.request.proxy_bypass("example.org")


def test_the_sdk_has_a_members_key_and_operators_have_their_own_file(box: Box):
    for name in ("env", "admin-env"):
        assert (box.data_dir / name).stat().st_mode & 0o777 == 0o600
    member, admin = read_env(box.data_dir / "env"), read_env(box.data_dir / "admin-env")
    assert member["HUD_API_URL"] == admin["HUD_API_URL"]
    assert [
        httpx.get(f"{box.url}/v2/admin/teams", headers=h, trust_env=False).status_code
        for h in (box.headers, box.admin_headers)
    ] == [403, 200]
    printed = (box.data_dir / "up.log").read_text()
    assert member["HUD_API_KEY"] in printed
    assert admin["HUD_API_KEY"] not in printed


def test_a_second_up_on_a_data_folder_names_the_first_and_leaves_its_files_alone(box: Box):
    assert box.process is not None
    before = (box.data_dir / "env").read_text()
    second = headway("up", "--data-dir", str(box.data_dir), "--port", "0")
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    for word in (f"pid {box.process.pid}", box.url, str(box.data_dir)):
        assert word in second.stderr
    assert (box.data_dir / "env").read_text() == before
    assert httpx.get(f"{box.url}/healthz", trust_env=False).status_code == 200


def test_a_data_folder_and_all_in_it_is_for_its_owner_alone(box: Box):
    assert [path for path in open_to_others(box.data_dir) if path.name != "up.log"] == []
