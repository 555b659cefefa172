"""What docs/kubernetes.md has its readers copy works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.commands import misused
from tests.chart.hardening import unsafe
from tests.chart.house_rules import broken_rules
from tests.chart.pods import pods
from tests.chart.rendering import profiles, render
from tests.chart.secrets import plain_secrets_of
from tests.chart.tools import ROOT, kubectl
from tests.chart.validation import problems

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MANIFESTS = re.findall(r"<<END\n(.*?)^END$", PAGE, re.MULTILINE | re.DOTALL)
KUSTOMIZATION = next(block for block in BLOCKS if "kustomization.yaml" in block)
VALUES: list[dict[str, Any]] = [yaml.safe_load(block) for block in BLOCKS if block != KUSTOMIZATION]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: ", ".join(values))
def test_its_values_make_a_valid_chart(values: dict[str, Any]):
    documents = render("one-node", values=values)
    assert problems(documents) == []
    assert [line for line in broken_rules(documents) if "reaches {'ipBlock'" not in line] == []


def test_its_kustomization_takes_the_rendered_chart(tmp_path: Path):
    (tmp_path / "headway.yaml").write_text(yaml.safe_dump_all(render("one-node")))
    (tmp_path / "kustomization.yaml").write_text(KUSTOMIZATION)
    built = subprocess.run([kubectl(), "kustomize", tmp_path], capture_output=True, text=True, check=True).stdout
    (server,) = [
        d for d in yaml.safe_load_all(built) if (d["kind"], d["metadata"]["name"]) == ("Deployment", "headway-server")
    ]
    assert server["spec"]["replicas"] == 3
    assert problems(list(yaml.safe_load_all(built))) == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda text: str(yaml.safe_load(text)["kind"]))
def test_its_manifests_are_valid_and_keep_the_rules_of_the_charts_pods(manifest: str):
    documents = [yaml.safe_load(manifest.replace("$(date +%F)", "2026-11-30"))]
    assert problems(documents) == []
    for pod in pods(documents):
        assert [*unsafe(pod), *plain_secrets_of(pod), *misused(pod)] == []


def test_it_names_every_profile():
    table = PAGE.partition("## Profiles")[2].partition("## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == sorted(profiles(), key=table.index)
    assert set(re.findall(r"profiles/([a-z-]+)\.yaml", PAGE)) <= set(profiles())
