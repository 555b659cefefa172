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
from tests.chart.rendering import CHART, profiles, render
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


def values_named(text: str) -> set[str]:
    """`server.replicas` and the like: paths into the values that a page has in code."""
    tops = "|".join(yaml.safe_load((CHART / "values.yaml").read_text()))
    return set(re.findall(rf"`(?!tls\.(?:crt|key)`)((?:{tops})(?:\.\w+)+)(?=[`:])", text))


def is_value(path: str) -> bool:
    place: Any = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in path.split("."):
        if not isinstance(place, dict) or key not in place:
            return False
        place = place[key]
    return True


@pytest.mark.parametrize("page", ["kubernetes", "tls", "elastic", "fleet", "monitoring", "environments", "runners"])
def test_values_that_pages_name_exist(page: str):
    named = values_named((ROOT / "docs" / f"{page}.md").read_text())
    assert [path for path in sorted(named) if not is_value(path)] == []
    assert page != "kubernetes" or len(named) > 20


def test_the_trigger_of_the_page_about_elastic_samplers_is_one_of_keda():
    page = (ROOT / "docs" / "elastic.md").read_text()
    (block,) = re.findall(r"^```yaml\n(triggers:.*?)^```", page, re.MULTILINE | re.DOTALL)
    metadata = {"name": "samplers", "namespace": "headway"}
    spec = {"scaleTargetRef": {"name": "sampler"}, **yaml.safe_load(block)}
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": metadata, "spec": spec}
    assert problems([scaled]) == []


def test_the_certificates_of_the_page_about_tls_are_those_that_the_chart_mounts():
    page = (ROOT / "docs" / "tls.md").read_text()
    (block,) = re.findall(r"^```yaml\n(apiVersion: cert-manager.*?)^```", page, re.MULTILINE | re.DOTALL)
    made = {(d["kind"], d["metadata"]["name"]): d["spec"] for d in yaml.safe_load_all(block)}
    tls = yaml.safe_load((CHART / "values.yaml").read_text())["tls"]
    assert made["Certificate", tls["caSecret"]]["secretName"] == tls["caSecret"]
    assert made["Certificate", tls["samplerSecret"]]["secretName"] == tls["samplerSecret"]
    assert made["Certificate", tls["samplerSecret"]]["dnsNames"] == [tls["planeName"]]
    assert f"`{tls['serverSecret']}`" in page
    assert f"`{tls['runnerSecret']}`" in page
    issuers = {spec["issuerRef"]["name"] for (kind, _), spec in made.items() if kind == "Certificate"}
    assert {("Issuer", name) for name in issuers} == {key for key in made if key[0] == "Issuer"}
