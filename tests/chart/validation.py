"""Documents against the schemas of Kubernetes and of the operators that the chart works with: strictly, so that a field
which no schema has is refused.

Kubernetes' own schemas come with the package kubernetes-validate; its `validate` names the first problem alone and
reads 2 MB for each document, so that the schemas are used directly. Those of operators are in schemas/: the fields that
a chart may set, written after their API references, and nothing that is deprecated or unsafe.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import referencing

from tests.chart.rendering import Document

KUBERNETES = "v1.37.0-local-strict"
SCHEMAS = Path(__file__).with_name("schemas")


def problems(documents: Iterable[Document]) -> list[str]:
    """What the schemas have against each document: where, and why. Names that are taken twice, too."""
    documents = list(documents)
    return [line for document in documents for line in _of_one(document)] + list(_taken_twice(documents))


def title(document: Document) -> str:
    """Kind and name."""
    return f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"


def _of_one(document: Document) -> Iterator[str]:
    schema = _schema(document.get("apiVersion", ""), document.get("kind", ""))
    if schema is None:
        yield f"{title(document)}: no schema is known of {document.get('apiVersion')} {document.get('kind')}"
        return
    validator = jsonschema.Draft202012Validator(schema, registry=_registry())
    for error in validator.iter_errors(document):
        for cause in _causes(error):
            yield f"{title(document)}: {cause.json_path.removeprefix('$.')}: {cause.message}"


def _causes(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    """The error itself, or what all branches of a choice have against the instance."""
    return [deeper for cause in error.context for deeper in _causes(cause)] if error.context else [error]


def _taken_twice(documents: Iterable[Document]) -> Iterator[str]:
    seen: set[tuple[Any, ...]] = set()
    for document in documents:
        metadata = document.get("metadata", {})
        key = (document.get("apiVersion"), document.get("kind"), metadata.get("namespace"), metadata.get("name"))
        if key in seen:
            yield f"{title(document)}: two documents have this name"
        seen.add(key)


@functools.cache
def _schema(api_version: str, kind: str) -> dict[str, Any] | None:
    ours = SCHEMAS / f"{kind.lower()}.json"
    if ours.is_file() and json.loads(ours.read_text())["properties"]["apiVersion"]["const"] == api_version:
        return json.loads(ours.read_text())
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part)
    theirs = _kubernetes(f"{name}.json")
    is_of_kubernetes = "." not in group or group.endswith(".k8s.io")
    return theirs if is_of_kubernetes else None


@functools.cache
def _kubernetes(name: str) -> dict[str, Any] | None:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES
    file = folder / name
    return json.loads(file.read_text()) if file.is_file() else None


@functools.cache
def _registry() -> referencing.Registry[Any]:
    definitions = _kubernetes("_definitions.json")
    assert definitions is not None, f"kubernetes-validate has no {KUBERNETES}"
    return referencing.Resource.from_contents(definitions) @ referencing.Registry()
