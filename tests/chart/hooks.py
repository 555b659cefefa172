"""What runs before an installation needs nothing that comes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.chart.pods import pods
from tests.chart.rendering import Document
from tests.chart.validation import title


def unready_hooks(documents: Sequence[Document]) -> Iterator[str]:
    """Accounts and ConfigMaps of hooks that are created later than they."""
    there = {(d["kind"], d["metadata"]["name"]): _turn(d) for d in documents}
    for document in documents:
        if _turn(document) is None:
            continue
        for pod in pods([document]):
            named = [("ServiceAccount", pod.spec.get("serviceAccountName", "default"))]
            named += [("ConfigMap", v["configMap"]["name"]) for v in pod.spec.get("volumes") or [] if "configMap" in v]
            for kind, name in named:
                turn = there.get((kind, name), -1)
                if turn is None or turn >= (_turn(document) or 0):
                    yield f"{title(document)}: runs before {kind}/{name} is there"


def _turn(document: Document) -> int | None:
    """When a hook before the installation comes; None: with everything else."""
    annotations = document["metadata"].get("annotations") or {}
    is_first = "pre-" in annotations.get("helm.sh/hook", "")
    return int(annotations.get("helm.sh/hook-weight", "0")) if is_first else None
