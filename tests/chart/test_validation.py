"""Documents are checked strictly: what no schema has is refused, also in what operators define."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.validation import problems

POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "trainer"}},
    "spec": {"containers": [{"name": "trainer", "image": "headway-trainer:0.1.0", "args": ["trainer"]}]},
}
GROUP: dict[str, Any] = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1",
    "kind": "LeaderWorkerSet",
    "metadata": {"name": "trainer"},
    "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": POD}},
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "trainer"},
    "spec": {"selector": {"matchLabels": {"app": "trainer"}}, "template": POD},
}
SCALED: dict[str, Any] = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "runner"},
    "spec": {
        "scaleTargetRef": {"name": "runner"},
        "minReplicaCount": 0,
        "triggers": [
            {
                "type": "metrics-api",
                "metadata": {"url": "http://server:8420", "valueLocation": "value", "targetValue": "1"},
            }
        ],
    },
}
MONITOR: dict[str, Any] = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "ServiceMonitor",
    "metadata": {"name": "server"},
    "spec": {"selector": {"matchLabels": {"app": "server"}}, "endpoints": [{"port": "http", "interval": "15s"}]},
}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with something else at a path of keys and places."""
    document = copy.deepcopy(document)
    *way, last = path.split(".")
    place: Any = document
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[last] = value
    return document


@pytest.mark.parametrize("document", [DEPLOYMENT, GROUP, SCALED, MONITOR], ids=lambda d: d["kind"])
def test_what_schemas_have_is_valid(document: dict[str, Any]):
    assert problems([document]) == []


@pytest.mark.parametrize(
    ("document", "path", "where"),
    [
        (DEPLOYMENT, "spec.template.spec.containers.0.livenesProbe", "spec.template.spec.containers[0]"),
        (DEPLOYMENT, "spec.replica", "spec"),
        (
            GROUP,
            "spec.leaderWorkerTemplate.workerTemplate.spec.tolerration",
            "spec.leaderWorkerTemplate.workerTemplate",
        ),
        (GROUP, "spec.leaderWorkerTemplate.sise", "spec.leaderWorkerTemplate"),
        (SCALED, "spec.minReplicas", "spec"),
        (SCALED, "spec.triggers.0.metadata.valuLocation", "spec.triggers[0].metadata"),
        (MONITOR, "spec.endpoints.0.intervall", "spec.endpoints[0]"),
    ],
)
def test_a_misspelt_key_is_refused_where_it_stands(document: dict[str, Any], path: str, where: str):
    (problem,) = problems([changed(document, path, "1")])
    assert where in problem
    assert f"'{path.rpartition('.')[2]}' was unexpected" in problem


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        (DEPLOYMENT, "spec.replicas", "two"),
        (GROUP, "spec.leaderWorkerTemplate.size", 0),
        (GROUP, "spec.startupPolicy", "Leader"),
        (SCALED, "spec.triggers.0.metadata", {"url": "http://server:8420"}),
        (MONITOR, "spec.endpoints.0.interval", "15"),
        (MONITOR, "spec.endpoints.0.authorization", {"credentials": "a token itself"}),
    ],
)
def test_a_value_of_another_kind_is_refused(document: dict[str, Any], path: str, value: Any):
    assert problems([changed(document, path, value)])


def test_a_kind_or_version_without_a_schema_is_refused():
    assert problems([{**SCALED, "apiVersion": "keda.sh/v1"}]) == [
        "ScaledObject/runner: no schema is known of keda.sh/v1 ScaledObject"
    ]
    assert "no schema" in problems([{**DEPLOYMENT, "apiVersion": "apps/v1beta1"}])[0]


def test_two_documents_of_one_name_are_refused():
    assert problems([DEPLOYMENT, DEPLOYMENT]) == ["Deployment/trainer: two documents have this name"]
