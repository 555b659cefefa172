"""`python -m tests.chart`, which `make check` runs: the chart passes with every profile, and what is wrong fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.__main__ import main
from tests.chart.rendering import CHART, NotRendered, profiles, render

PROFILE = "no-gpu"


def copied(folder: Path) -> Path:
    """The chart with one profile, for a test to break."""
    chart = folder / "headway"
    shutil.copytree(CHART, chart, ignore=lambda _, names: [n for n in names if n in profiles() and n != PROFILE])
    for profile in profiles():
        if profile != PROFILE:
            (chart / "profiles" / f"{profile}.yaml").unlink()
    return chart


def template(name: str, pattern: str, replacement: str) -> Callable[[Path], None]:
    """A template with a part of it replaced, which has to be there."""

    def change(chart: Path) -> None:
        path = chart / "templates" / name
        text, times = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert times, f"{name} has no {pattern}"
        path.write_text(text)

    return change


def values(**given: Any) -> Callable[[Path], None]:
    """More values in the profile."""

    def change(chart: Path) -> None:
        path = chart / "profiles" / f"{PROFILE}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **given}))

    return change


def test_every_profile_is_valid(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0, capsys.readouterr().out
    assert {"no-gpu"} <= set(profiles())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (template("_pods.tpl", "enableServiceLinks:", "enableServiceLink:"), "'enableServiceLink' was unexpected"),
        (values(servers={"replicas": 2}), "servers"),
        (template("server-deployment.yaml", r"^ +resources:.*\n", ""), "has no limit of memory"),
        (template("server-deployment.yaml", r"^ {10}livenessProbe:\n( {12}.*\n)+", ""), "has no livenessProbe"),
        (template("_pods.tpl", "runAsNonRoot: true", "runAsNonRoot: false"), "may run as root"),
        (values(server={"extraEnv": [{"name": "HF_TOKEN", "value": "word"}]}), "HF_TOKEN has to come out of a Secret"),
        (template("server-deployment.yaml", r"\[server, ", "[serve, "), "there is no command headway serve"),
    ],
    ids=["misspelt key", "misspelt value", "no limit", "no probe", "root", "plain secret", "unknown command"],
)
def test_what_is_wrong_with_the_chart_makes_the_check_fail(
    change: Callable[[Path], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chart = copied(tmp_path)
    change(chart)
    assert main([str(chart)]) == 1
    assert said in capsys.readouterr().out


def test_values_given_beside_a_profile_and_names_reach_the_documents():
    documents = render(PROFILE, values={"server": {"replicas": 7}}, release="rl", namespace="team")
    servers = [d for d in documents if d["kind"] == "Deployment" and d["metadata"]["name"].endswith("-server")]
    assert [d["spec"]["replicas"] for d in servers] == [7]
    assert {d["metadata"]["namespace"] for d in documents} == {"team"}
    assert all(d["metadata"]["name"].startswith("rl") for d in documents)


def test_what_helm_refuses_is_raised_with_its_reason():
    with pytest.raises(NotRendered, match="headway"):
        render(PROFILE, values={"server": 1})
