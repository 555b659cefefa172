"""The environment of a container, and the arguments of its command, as the kubelet makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class NotConfigured(ValueError):
    """A container refers to a Secret, ConfigMap or key that is not there: Kubernetes would never start it."""


@dataclass(frozen=True)
class Objects:
    """Secrets and ConfigMaps of the namespace: name → key → value."""

    secrets: dict[str, Mapping[str, str]]
    config_maps: dict[str, Mapping[str, str]]

    def secret(self, name: str, key: str) -> str | None:
        return self.secrets.get(name, {}).get(key)

    def config(self, name: str, key: str) -> str | None:
        return self.config_maps.get(name, {}).get(key)


def expanded(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` is the variable's value, or stays where there is none; `$$(NAME)` is `$(NAME)`."""
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def environment(container: Mapping[str, Any], fields: Mapping[str, str], objects: Objects) -> dict[str, str]:
    """What `envFrom` and `env` of a container give. A variable may refer to earlier ones. fields: what fieldRef may
    name. Raises NotConfigured."""
    env: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        env |= _all_of(source, objects)
    for entry in container.get("env", ()):
        value = expanded(entry["value"], env) if "value" in entry else _from(entry.get("valueFrom"), fields, objects)
        if value is not None:
            env[entry["name"]] = value
    return env


def service_links(services: Iterable[Mapping[str, Any]], addresses: Mapping[str, str]) -> dict[str, str]:
    """What Kubernetes adds for each Service unless a pod has `enableServiceLinks: false`: HEADWAY_SERVER_PORT is a URL
    then, where the software expects a number."""
    links: dict[str, str] = {}
    for service in services:
        if (name := service["metadata"]["name"]) not in addresses:
            continue
        prefix, address = name.upper().replace("-", "_"), addresses[name]
        port = service["spec"]["ports"][0]["port"]
        links |= {
            f"{prefix}_SERVICE_HOST": address,
            f"{prefix}_SERVICE_PORT": str(port),
            f"{prefix}_PORT": f"tcp://{address}:{port}",
        }
    return links


def _all_of(source: Mapping[str, Any], objects: Objects) -> dict[str, str]:
    kind, known = ("secretRef", objects.secrets) if "secretRef" in source else ("configMapRef", objects.config_maps)
    reference = source[kind]
    if reference["name"] not in known and not reference.get("optional"):
        raise NotConfigured(f"there is no {kind.removesuffix('Ref')} {reference['name']!r}")
    return {source.get("prefix", "") + key: value for key, value in known.get(reference["name"], {}).items()}


def _from(source: Mapping[str, Any] | None, fields: Mapping[str, str], objects: Objects) -> str | None:
    if not source:
        return ""
    [(kind, reference)] = source.items()
    match kind:
        case "secretKeyRef":
            value = objects.secret(reference["name"], reference["key"])
        case "configMapKeyRef":
            value = objects.config(reference["name"], reference["key"])
        case "fieldRef":
            value = fields.get(reference["fieldPath"])
        case _:
            raise NotConfigured(f"variables from {kind} are not understood here")
    if value is None and not reference.get("optional"):
        raise NotConfigured(f"{kind}: there is no {reference}")
    return value
