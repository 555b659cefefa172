"""The example files of docker/monitoring: PromQL that parses, over metrics and labels that there are, and a dashboard
of fields that Grafana knows. tests/e2e/test_prometheus.py has a real Prometheus read them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

MONITORING = Path("docker/monitoring")
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
QUERIES = [(panel["title"], one["expr"]) for panel in DASHBOARD["panels"] for one in panel.get("targets", [])]
QUERIES += [(rule["alert"], rule["expr"]) for rule in RULES]
EVERYWHERE = {"instance", "job"}
"""Labels that Prometheus adds."""

_ROW = re.compile(r"^\| `(headway_[a-z_]+)` \| ([a-z, ]*)\| (histogram)?", re.MULTILINE)


def documented() -> dict[str, set[str]]:
    """Each series that Prometheus stores, and its labels. That the names are those of the code is held by
    tests/unit/server/test_metrics.py."""
    found = dict[str, set[str]]()
    for name, told, is_histogram in _ROW.findall(Path("docs/monitoring.md").read_text()):
        labels = {label.strip() for label in told.split(",") if label.strip()} | EVERYWHERE
        if is_histogram:
            found |= {f"{name}_count": labels, f"{name}_sum": labels, f"{name}_bucket": labels | {"le"}}
        else:
            found[name] = labels
    return found


SERIES = documented()


def parsed(query: str) -> promql.Expr:
    return promql.parse(query.replace("$__rate_interval", "1m"))


def nodes(query: str) -> list[promql.Expr]:
    found = list[promql.Expr]()
    promql.walk(parsed(query), found.append)
    return found


def complaints(query: str) -> list[str]:
    """What is wrong with a query, beyond its syntax."""
    wrong = list[str]()
    for node in nodes(query):
        if isinstance(node, promql.VectorSelector):
            unknown = {matcher.name for matcher in node.matchers.matchers} - SERIES.get(node.name or "", set())
            wrong += [f"there is no {node.name}"] if node.name not in SERIES else [f"no label {one}" for one in unknown]
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            wrong += [f"no label {label}" for label in set(node.modifier.labels) - _labels_in(node.expr)]
        elif isinstance(node, promql.Call) and node.func.name == "rate":
            (argument,) = node.args
            name = argument.vector_selector.name
            wrong += [] if name.endswith(("_total", "_bucket", "_count", "_sum")) else [f"{name} is not a counter"]
    return wrong


def _labels_in(expression: promql.Expr) -> set[str]:
    """Of all series in an expression."""
    found = set[str]()

    def look(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.update(SERIES.get(node.name or "", set()))

    promql.walk(expression, look)
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_parses_and_names_metrics_and_labels_that_there_are(title: str, query: str):
    assert complaints(query) == [], title


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("max(headway_no_such_thing)", "there is no headway_no_such_thing"),
        ('headway_trainers{colour="blue"}', "no label colour"),
        ("sum by (colour) (headway_trainers)", "no label colour"),
        ("rate(headway_trainers[5m])", "headway_trainers is not a counter"),
        ("rate(headway_http_request_seconds[5m])", "there is no headway_http_request_seconds"),
    ],
)
def test_a_query_that_asks_for_what_is_not_there_is_noticed(query: str, said: str):
    assert said in complaints(query)


def test_a_query_that_is_none_is_noticed():
    with pytest.raises(ValueError, match="parenthes"):
        parsed("sum(rate(headway_trainer_steps_total[1m])")


def lost_by_grafana(dashboard: dict[str, Any]) -> list[str]:
    """The fields that Grafana's own types do not know, which therefore are not there when it is read and written."""
    register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(copy.deepcopy(dashboard))))
    return list(_lost(dashboard, kept, ""))


def _lost(given: Any, kept: Any, path: str) -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        return [one for key in given for one in _lost(given[key], kept.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [one for at, (a, b) in enumerate(zip(given, kept, strict=True)) for one in _lost(a, b, f"{path}[{at}]")]
    return [] if given == kept else [path.removeprefix(".")]


def test_grafana_knows_every_field_of_the_dashboard():
    assert lost_by_grafana(DASHBOARD) == []


def test_a_field_that_grafana_does_not_know_is_noticed():
    wrong = copy.deepcopy(DASHBOARD)
    wrong["panels"][0]["options"]["colour"] = "blue"
    assert lost_by_grafana(wrong) == ["panels[0].options.colour"]


def test_no_two_panels_share_a_place_or_an_id():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
