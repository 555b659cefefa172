"""What names something else by labels, a port or a name reaches what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.chart.pods import Pod, pods
from tests.chart.rendering import Document
from tests.chart.validation import title


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a label selector takes an object with these labels; an empty one takes all."""
    selector = selector or {}
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def dangling(documents: Sequence[Document]) -> Iterator[str]:
    """References that reach nothing, or more than they may."""
    made = pods(documents)
    for document in documents:
        kind, spec = document["kind"], document.get("spec") or {}
        if kind in ("Deployment", "StatefulSet"):
            yield from _own_pods(document)
        elif kind == "Service":
            yield from _service(document, made)
        elif kind == "NetworkPolicy":
            yield from _policy(document, made)
        elif kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            yield from _scaled(document, spec["scaleTargetRef"], documents)
            yield from _bounds(document)
        elif kind == "ServiceMonitor":
            yield from _service_monitor(document, documents)
        elif kind == "PodMonitor":
            yield from _pod_monitor(document, made)
        elif kind == "Ingress":
            yield from _ingress(document, documents)
    yield from _budgets(documents, made)
    yield from _accounts(documents, made)
    yield from _config_maps(documents, made)
    yield from _authentications(documents)


def _own_pods(document: Document) -> Iterator[str]:
    labels = document["spec"]["template"]["metadata"]["labels"]
    if not selects(document["spec"]["selector"], labels):
        yield f"{title(document)}: its selector does not take its own pods"


def _service(document: Document, made: Iterable[Pod]) -> Iterator[str]:
    wanted = document["spec"].get("selector")
    chosen = [pod for pod in made if wanted and selects({"matchLabels": wanted}, pod.labels)]
    if not chosen:
        yield f"{title(document)}: its selector takes no pod"
    for port in document["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        for pod in chosen:
            if not any(target in (p.get("name"), p["containerPort"]) for p in ports(pod)):
                yield f"{title(document)}: {pod.owner} has no port {target}"


def ports(pod: Pod) -> list[dict[str, Any]]:
    """What containers of a pod declare to listen on."""
    return [port for container in pod.containers for port in container.get("ports") or []]


def _policy(document: Document, made: Sequence[Pod]) -> Iterator[str]:
    selectors = [document["spec"].get("podSelector")]
    for way, ends in (("ingress", "from"), ("egress", "to")):
        for rule in document["spec"].get(way) or []:
            selectors += [peer["podSelector"] for peer in rule.get(ends) or [] if _is_here(peer)]
    for selector in selectors:
        if selector and not any(selects(selector, pod.labels) for pod in made):
            yield f"{title(document)}: a selector takes no pod: {selector}"


def _is_here(peer: dict[str, Any]) -> bool:
    return "podSelector" in peer and "namespaceSelector" not in peer


def _scaled(document: Document, target: dict[str, str], documents: Iterable[Document]) -> Iterator[str]:
    kind, name = target.get("kind", "Deployment"), target["name"]
    found = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    if not found:
        yield f"{title(document)}: there is no {kind}/{name}"
    for workload in found:
        if "replicas" in workload["spec"]:
            yield f"{title(workload)}: {title(document)} counts its replicas; an upgrade would set them back"


def _bounds(document: Document) -> Iterator[str]:
    spec = document["spec"]
    least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
    if least > spec.get("maxReplicas", spec.get("maxReplicaCount", least)):
        yield f"{title(document)}: its least number of replicas is more than its greatest"


def _service_monitor(document: Document, documents: Iterable[Document]) -> Iterator[str]:
    services = [d for d in documents if d["kind"] == "Service"]
    chosen = [s for s in services if selects(document["spec"]["selector"], s["metadata"].get("labels") or {})]
    if not chosen:
        yield f"{title(document)}: its selector takes no Service"
    for endpoint in document["spec"]["endpoints"]:
        for service in chosen:
            if endpoint["port"] not in [port.get("name") for port in service["spec"]["ports"]]:
                yield f"{title(document)}: {title(service)} has no port {endpoint['port']}"


def _pod_monitor(document: Document, made: Iterable[Pod]) -> Iterator[str]:
    chosen = [pod for pod in made if selects(document["spec"]["selector"], pod.labels)]
    if not chosen:
        yield f"{title(document)}: its selector takes no pod"
    for endpoint in document["spec"]["podMetricsEndpoints"]:
        for pod in chosen:
            if "port" in endpoint and endpoint["port"] not in [port.get("name") for port in ports(pod)]:
                yield f"{title(document)}: {pod.owner} has no port {endpoint['port']}"


def _ingress(document: Document, documents: Sequence[Document]) -> Iterator[str]:
    for rule in document["spec"].get("rules") or []:
        for path in (rule.get("http") or {}).get("paths") or []:
            wanted = path["backend"]["service"]
            if not any(_serves(document_, wanted) for document_ in documents):
                yield f"{title(document)}: there is no Service {wanted['name']} with that port"


def _serves(document: Document, wanted: dict[str, Any]) -> bool:
    if document["kind"] != "Service" or document["metadata"]["name"] != wanted["name"]:
        return False
    port = wanted.get("port") or {}
    return any(port.get("name") == p.get("name") or port.get("number") == p["port"] for p in document["spec"]["ports"])


def _budgets(documents: Iterable[Document], made: Iterable[Pod]) -> Iterator[str]:
    """A pod of two budgets cannot be evicted at all."""
    budgets = [document for document in documents if document["kind"] == "PodDisruptionBudget"]
    made = [pod for pod in made if not pod.ends]
    for budget in budgets:
        owners = {pod.owner.split()[0] for pod in made if selects(budget["spec"]["selector"], pod.labels)}
        if budget["spec"].get("maxUnavailable") in (0, "0%") or budget["spec"].get("minAvailable") == "100%":
            yield f"{title(budget)}: no pod of it may ever be evicted: a node that has one is drained by force alone"
        if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{title(budget)}: pods that are not ready count as the last ones (unhealthyPodEvictionPolicy)"
        if len(owners) != 1:
            yield f"{title(budget)}: its selector takes pods of {', '.join(sorted(owners)) or 'nothing'}"
    for pod in made:
        its = [title(budget) for budget in budgets if selects(budget["spec"]["selector"], pod.labels)]
        if len(its) > 1:
            yield f"{pod.owner}: is in more than one budget: {', '.join(its)}"


def _accounts(documents: Iterable[Document], made: Iterable[Pod]) -> Iterator[str]:
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    for account in accounts.values():
        if account.get("automountServiceAccountToken") is not False:
            yield f"{title(account)}: automountServiceAccountToken has to be false"
    for pod in made:
        name = pod.spec.get("serviceAccountName", "default")
        if name not in accounts:
            yield f"{pod.owner}: there is no ServiceAccount {name}"


def _config_maps(documents: Iterable[Document], made: Iterable[Pod]) -> Iterator[str]:
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    for pod in made:
        named = {v["configMap"]["name"] for v in pod.spec.get("volumes") or [] if "configMap" in v}
        for name in sorted(named - maps):
            yield f"{pod.owner}: there is no ConfigMap {name}"


def _authentications(documents: Iterable[Document]) -> Iterator[str]:
    there = {d["metadata"]["name"] for d in documents if d["kind"] == "TriggerAuthentication"}
    for document in documents:
        if document["kind"] == "ScaledObject":
            for trigger in document["spec"]["triggers"]:
                wanted = trigger.get("authenticationRef") or {}
                is_of_the_cluster = wanted.get("kind") == "ClusterTriggerAuthentication"
                if wanted and not is_of_the_cluster and wanted["name"] not in there:
                    yield f"{title(document)}: there is no TriggerAuthentication {wanted['name']}"
