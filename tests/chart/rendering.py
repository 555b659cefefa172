"""What the chart makes of a profile: `helm template`, read back as documents."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.chart.tools import ROOT, helm

CHART = ROOT / "deploy" / "helm" / "headway"
KUBERNETES = "1.35.0"
"""The release that the chart is rendered for; what comes out is checked against the schemas of a newer one, too."""

_WITHOUT_COLLECTIONS = {"GOGC": "off", "GOMAXPROCS": "1"}
"""Of garbage, which take helm half of its 0.15 s."""

Document = dict[str, Any]


class NotRendered(RuntimeError):
    """helm refused the values or the templates. Carries what it printed."""


def profiles(chart: Path = CHART) -> list[str]:
    """Names of the files of values under the chart's profiles/."""
    return sorted(path.stem for path in (chart / "profiles").glob("*.yaml"))


def render(
    profile: str,
    *,
    values: Mapping[str, Any] | None = None,
    release: str = "headway",
    namespace: str = "headway",
    chart: Path = CHART,
) -> list[Document]:
    """Every document of the chart with a profile's values, and `values` over them; hooks included. Raises NotRendered
    and NotInstalled."""
    given = ["--values", chart / "profiles" / f"{profile}.yaml", "--values", "-"]
    target = ["--namespace", namespace, "--kube-version", KUBERNETES]
    text = _helm("template", release, chart, *given, *target, stdin=json.dumps(values or {}))
    documents = [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]
    for document in documents:
        document["metadata"].setdefault("namespace", namespace)
    return documents


def lint(chart: Path = CHART) -> list[str]:
    """What `helm lint --strict` has against the chart with any of its profiles."""
    found: list[str] = []
    for profile in profiles(chart):
        try:
            _helm("lint", "--strict", "--quiet", chart, "--values", chart / "profiles" / f"{profile}.yaml")
        except NotRendered as error:
            found.append(f"{profile}: {error}")
    return found


def _helm(*words: str | Path, stdin: str = "") -> str:
    environment = os.environ | _WITHOUT_COLLECTIONS
    done = subprocess.run([helm(), *words], input=stdin, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise NotRendered((done.stderr or done.stdout).strip())
    return done.stdout
