"""Each house rule finds what it is there for, in a pod that has nothing else against it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.chart.house_rules import broken_rules
from tests.chart.rendering import Document
from tests.chart.validation import problems

Change = Callable[[list[Document]], object]

BOUNDS = {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}
PROBE: dict[str, Any] = {"httpGet": {"path": "/healthz", "port": "http"}, "failureThreshold": 60}
ARGUMENTS: dict[str, list[str]] = {
    "server": ["server", "--host", "0.0.0.0", "--port", "8420"],
    "sampler": ["sampler", "--host", "0.0.0.0", "--port", "8420", "--advertise", "http://$(POD_IP):8420"],
    "runner": ["runner", "--host", "0.0.0.0", "--port", "8420"],
}
DATABASE = {"valueFrom": {"secretKeyRef": {"name": "headway-database", "key": "url"}}}
TOKEN = {"valueFrom": {"secretKeyRef": {"name": "headway-tokens", "key": "sampler"}}}
ENVIRONMENT: dict[str, list[dict[str, Any]]] = {
    "server": [{"name": "HEADWAY_DATABASE_URL", **DATABASE}, {"name": "HEADWAY_SAMPLER_TOKEN", **TOKEN}],
    "sampler": [
        {"name": "HEADWAY_DATABASE_URL", **DATABASE},
        {"name": "HEADWAY_SAMPLER_TOKEN", **TOKEN},
        {"name": "HEADWAY_BASE", "value": "tiny-arith"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ],
    "runner": [
        {"name": "HEADWAY_SERVER_URL", "value": "http://server:8420"},
        {"name": "HEADWAY_RUNNER_KEY", "valueFrom": {"secretKeyRef": {"name": "headway-runner", "key": "key"}}},
    ],
}


def container(plane: str) -> dict[str, Any]:
    return {
        "name": plane,
        "image": f"registry.example/headway-{plane}:0.1.0",
        "args": ARGUMENTS[plane],
        "env": [{"name": "HEADWAY_DATA_DIR", "value": "/var/lib/headway"}, *ENVIRONMENT[plane]],
        "ports": [{"name": "http", "containerPort": 8420}],
        **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), PROBE),
        "resources": {"requests": dict(BOUNDS), "limits": dict(BOUNDS)},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/headway"}],
    }


def deployment(plane: str) -> Document:
    spec = {
        "serviceAccountName": "headway",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(plane)],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": {"plane": plane}}, "spec": spec}
    selector = {"matchLabels": {"plane": plane}}
    return named("apps/v1", "Deployment", plane, spec={"replicas": 2, "selector": selector, "template": template})


def named(version: str, kind: str, name: str, **fields: Any) -> Document:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "headway"}, **fields}


def policy(plane: str, *, ingress: list[Any], egress: list[Any]) -> Document:
    selector = {"matchLabels": {"plane": plane}}
    spec = {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}
    return named("networking.k8s.io/v1", "NetworkPolicy", plane, spec=spec)


SERVERS: list[dict[str, Any]] = [{"podSelector": {"matchLabels": {"plane": "server"}}}]
NAMES: dict[str, Any] = {"ports": [{"port": 53, "protocol": "UDP"}]}
GOOD: list[Document] = [
    named("v1", "ServiceAccount", "headway", automountServiceAccountToken=False),
    *(deployment(plane) for plane in ("server", "sampler", "runner")),
    policy("server", ingress=[{}], egress=[{}]),
    policy("sampler", ingress=[{"from": SERVERS}], egress=[{}]),
    policy("runner", ingress=[{"from": SERVERS}], egress=[NAMES, {"to": SERVERS}]),
    named(
        "v1",
        "Service",
        "server",
        spec={"selector": {"plane": "server"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    ),
    named(
        "policy/v1",
        "PodDisruptionBudget",
        "server",
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"plane": "server"}},
        },
    ),
]


def found(kind: str, name: str, documents: list[Document]) -> Document:
    return next(d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))


def of(plane: str, documents: list[Document]) -> dict[str, Any]:
    return found("Deployment", plane, documents)["spec"]["template"]["spec"]


def only(plane: str, documents: list[Document]) -> dict[str, Any]:
    return of(plane, documents)["containers"][0]


def variable(name: str, value: str) -> Change:
    return lambda documents: only("server", documents)["env"].append({"name": name, "value": value})


def annotated(kind: str, value: str) -> Change:
    """A Service itself, or what a Deployment makes."""

    def change(documents: list[Document]) -> None:
        document = found(kind, "server", documents)
        (document["spec"]["template"] if kind == "Deployment" else document)["metadata"]["annotations"] = {
            "note": value
        }

    return change


def test_what_has_nothing_against_it_is_left_alone():
    assert problems(GOOD) == []
    assert list(broken_rules(GOOD)) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: only("server", d)["resources"].pop("limits"), "has no limit of memory"),
        (lambda d: only("server", d)["resources"]["requests"].pop("cpu"), "has no request of cpu"),
        (lambda d: only("server", d)["resources"]["limits"].pop("cpu"), "has no limit of cpu"),
        (lambda d: only("server", d)["resources"]["limits"].pop("ephemeral-storage"), "no limit of ephemeral-storage"),
        (lambda d: only("server", d).pop("livenessProbe"), "has no livenessProbe"),
        (lambda d: only("server", d).pop("readinessProbe"), "has no readinessProbe"),
        (lambda d: only("server", d).pop("startupProbe"), "has no startupProbe"),
        (lambda d: of("server", d).pop("securityContext"), "may run as root"),
        (lambda d: only("server", d)["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda d: only("server", d)["securityContext"].update(runAsNonRoot=False), "may run as root"),
        (lambda d: only("server", d)["securityContext"].pop("readOnlyRootFilesystem"), "readOnlyRootFilesystem"),
        (lambda d: only("server", d)["securityContext"].pop("capabilities"), "capabilities"),
        (lambda d: only("server", d)["securityContext"].update(privileged=True), "is privileged"),
        (lambda d: only("server", d).update(image="registry.example:5000/headway-server"), "is not pinned"),
        (lambda d: only("server", d).update(image="headway-server:latest"), "is not pinned"),
        (lambda d: only("server", d).update(image="headway-server:sha256:0123abcd"), "is no reference to an image"),
        (lambda d: only("server", d).update(image="headway-server@sha256:0123abcd:0.1.0"), "is no reference"),
        (lambda d: only("server", d)["resources"]["requests"].update(cpu="1500m"), "request of cpu, 1500m, is more"),
        (lambda d: of("server", d).pop("automountServiceAccountToken"), "automountServiceAccountToken"),
        (lambda d: of("server", d).pop("enableServiceLinks"), "enableServiceLinks"),
        (lambda d: of("server", d).update(hostNetwork=True), "hostNetwork"),
        (lambda d: of("server", d)["volumes"][0].update(hostPath={"path": "/"}), "a path of the node"),
    ],
)
def test_a_pod_without_bounds_or_probes_or_with_rights_is_refused(change: Change, rule: str):
    documents = copy.deepcopy(GOOD)
    change(documents)
    assert rule in "\n".join(broken_rules(documents))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (variable("HEADWAY_SAMPLER_TOKEN", "secret"), "HEADWAY_SAMPLER_TOKEN has to come out of a Secret"),
        (variable("AWS_SECRET_ACCESS_KEY", "x"), "AWS_SECRET_ACCESS_KEY has to come out of a Secret"),
        (variable("SOME_PROXY", "http://user:word@proxy.example"), "a password in a URL"),
        (variable("SOME_SETTING", "AKIAIOSFODNN7EXAMPLE"), "a key of Amazon's"),
        (variable("SOME_SETTING", "q7Zk3mB9xT2vR8sWf4Yj6Nc1Lp5H"), "something random"),
        (lambda d: only("server", d)["args"].append("--x=postgresql://a:b@c/d"), "an argument looks like a password"),
        (lambda d: d.append(named("v1", "Secret", "tokens", stringData={"a": "b"})), "refers to Secrets"),
        (annotated("Service", "AKIAIOSFODNN7EXAMPLE"), "Service/server: note looks like a key of Amazon's"),
        (
            annotated("Deployment", "q7Zk3mB9xT2vR8sWf4Yj6Nc1Lp5H"),
            "Deployment/server: note looks like something random",
        ),
        (lambda d: d.append(named("v1", "ConfigMap", "a", data={"b": "Bearer abcdefgh"})), "b looks like a token"),
    ],
)
def test_a_secret_in_a_plain_value_is_refused(change: Change, rule: str):
    documents = copy.deepcopy(GOOD)
    change(documents)
    assert rule in "\n".join(broken_rules(documents))


@pytest.mark.parametrize(
    "value", ["/etc/headway/tls/tls.key", "headway-server.headway.svc.cluster.local", "s3://bucket/a-long-prefix-2026"]
)
def test_names_and_paths_are_no_secrets(value: str):
    documents = copy.deepcopy(GOOD)
    variable("SOME_TLS_KEY", value)(documents)
    assert not [line for line in broken_rules(documents) if "looks like" in line or "Secret" in line]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: only("server", d)["args"].append("--prot"), "(?i)no such option: --prot"),
        (lambda d: only("server", d)["args"].__setitem__(0, "serve"), "there is no command headway serve"),
        (lambda d: only("server", d)["args"].extend(["--workers", "many"]), "workers"),
        (lambda d: only("server", d)["env"].pop(1), "headway server: .*database-url"),
        (lambda d: only("server", d)["livenessProbe"]["httpGet"].update(path="/health"), "asks /health, which"),
        (variable("HEADWAY_TLS_CERT", "/var/lib/headway/tls.crt"), "asks by HTTP, and it listens with HTTPS"),
        (variable("HEADWAY_SERVER_WORKER", "2"), "HEADWAY_SERVER_WORKER is not read by headway server"),
        (variable("HEADWAY_SERVER_WORKERS", "two"), "headway server: .*'two'"),
        (variable("HEADWAY_DATABASE_URL", ""), "HEADWAY_DATABASE_URL is set twice"),
        (lambda d: only("sampler", d)["env"].pop(), r"\$\(POD_IP\) is not set"),
        (lambda d: only("server", d)["args"].extend(["--port", "9000"]), "listens on 9000"),
        (lambda d: only("server", d)["ports"][0].update(name="web"), "asks port http"),
        (
            lambda d: only("server", d).pop("volumeMounts"),
            "HEADWAY_DATA_DIR is .*, which is on no volume",
        ),
        (lambda d: only("server", d)["volumeMounts"][0].update(name="date"), "of volume date, which its pod has not"),
        (lambda d: of("sampler", d).update(terminationGracePeriodSeconds=30), "may take 30 s"),
        (
            lambda d: of("server", d)["volumes"][0].update(persistentVolumeClaim={"claimName": "a"}) or _drop(d),
            "has to be a folder of the pod's own",
        ),
    ],
)
def test_a_command_line_that_headway_would_not_take_is_refused(change: Change, rule: str):
    documents = copy.deepcopy(GOOD)
    change(documents)
    with pytest.raises(AssertionError, match=rule):
        assert not list(broken_rules(documents)), "\n".join(broken_rules(documents))


def _drop(documents: list[Document]) -> None:
    del of("server", documents)["volumes"][0]["emptyDir"]


def _folder_and_limit(documents: list[Document]) -> None:
    of("server", documents)["volumes"][0]["emptyDir"] = {"sizeLimit": "20Gi"}
    only("server", documents)["resources"]["limits"]["ephemeral-storage"] = "10Gi"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: found("Service", "server", d)["metadata"].update(name="1st"), "characters that it may not have"),
        (lambda d: found("Service", "server", d)["metadata"].update(name="a.b"), "characters that it may not have"),
        (lambda d: found("NetworkPolicy", "server", d)["metadata"].update(name="A"), "characters that it may not have"),
        (lambda d: d.append(named("batch/v1", "Job", "a" * 64, spec={"template": {"spec": {"containers": []}}})), "63"),
        (
            lambda d: found("Deployment", "server", d)["metadata"].update(labels={"group": "a-"}),
            "label group cannot be",
        ),
        (lambda d: only("runner", d)["ports"][0].update(name="metrics-and-tunnels"), "port cannot be called 'metrics-"),
        (lambda d: only("runner", d)["ports"].append({"name": "http", "containerPort": 1}), "ports are called http"),
        (_folder_and_limit, "hold 20480 MiB, and its limits of ephemeral-storage 10240"),
    ],
)
def test_names_labels_and_folders_that_a_cluster_would_refuse_are_refused(change: Change, rule: str):
    documents = copy.deepcopy(GOOD)
    change(documents)
    assert rule in "\n".join(broken_rules(documents))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: found("Service", "server", d)["spec"].update(selector={"plane": "servers"}), "takes no pod"),
        (lambda d: found("Service", "server", d)["spec"]["ports"][0].update(targetPort="web"), "has no port web"),
        (lambda d: found("PodDisruptionBudget", "server", d)["spec"].update(selector={}), "takes pods of Deployment/"),
        (lambda d: d.append({**found("PodDisruptionBudget", "server", d), "metadata": {"name": "a"}}), "more than one"),
        (lambda d: found("PodDisruptionBudget", "server", d)["spec"].update(maxUnavailable=0), "drained by force"),
        (
            lambda d: found("PodDisruptionBudget", "server", d)["spec"].pop("unhealthyPodEvictionPolicy"),
            "not ready count as the last ones",
        ),
        (lambda d: d.append(_scaled("server", minReplicas=4)), "least number of replicas is more than its greatest"),
        (lambda d: of("server", d).update(serviceAccountName="other"), "there is no ServiceAccount other"),
        (lambda d: found("ServiceAccount", "headway", d).pop("automountServiceAccountToken"), "ServiceAccount/headway"),
        (lambda d: d.append(_scaled("servers")), "there is no Deployment/servers"),
        (lambda d: d.append(_scaled("server")), "an upgrade would set them back"),
        (
            lambda d: found("NetworkPolicy", "runner", d)["spec"].update(podSelector={"matchLabels": {"a": "b"}}),
            "no po",
        ),
    ],
)
def test_a_reference_that_reaches_nothing_or_too_much_is_refused(change: Change, rule: str):
    documents = copy.deepcopy(GOOD)
    change(documents)
    assert rule in "\n".join(broken_rules(documents))


def _scaled(name: str, **bounds: int) -> Document:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    spec = {"scaleTargetRef": target, "maxReplicas": 3, **bounds}
    return named("autoscaling/v2", "HorizontalPodAutoscaler", "server", spec=spec)


@pytest.mark.parametrize(
    ("plane", "way", "rules", "rule"),
    [
        ("runner", "egress", [{}], "Deployment/runner: reaches everything"),
        ("runner", "egress", [{"to": [{"podSelector": {}}]}], "Deployment/runner: reaches Deployment/sampler"),
        ("runner", "egress", [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], "Deployment/runner: reaches {'ipBlock'"),
        ("runner", "ingress", [{"from": [{"podSelector": {}}, {"podSelector": {}}]}], "is reached by"),
        ("sampler", "ingress", [{}], "Deployment/sampler: is reached by everything"),
        ("sampler", "ingress", [{"from": [{"namespaceSelector": {}}]}], "Deployment/sampler: is reached by {'namesp"),
    ],
)
def test_a_way_that_is_open_too_wide_is_refused(plane: str, way: str, rules: list[Any], rule: str):
    documents = copy.deepcopy(GOOD)
    found("NetworkPolicy", plane, documents)["spec"][way] = rules
    assert rule in "\n".join(broken_rules(documents))


def test_a_pod_that_no_policy_closes_is_refused():
    documents = [d for d in GOOD if d is not found("NetworkPolicy", "server", GOOD)]
    assert list(broken_rules(documents)) == [
        "Deployment/server: no NetworkPolicy closes its ingress",
        "Deployment/server: no NetworkPolicy closes its egress",
    ]


def test_a_hook_needs_nothing_that_comes_after_it():
    job = copy.deepcopy(deployment("server"))
    hook = {"helm.sh/hook": "pre-install", "helm.sh/hook-weight": "0"}
    job.update(apiVersion="batch/v1", kind="Job", metadata={"name": "migrate", "annotations": hook})
    assert "Job/migrate: runs before ServiceAccount/headway is there" in list(broken_rules([*GOOD, job]))
