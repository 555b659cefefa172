"""Volumes of a pod as folders of its host: made when the pod is, gone with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fleet.variables import NotConfigured, Objects


class Volumes:
    """Of one pod, under `folder`. claims: folders that exist, by the name of a persistent volume claim or the path of a
    hostPath. Raises NotConfigured for what refers to nothing, ValueError for a kind of volume that is unknown here."""

    def __init__(self, spec: Mapping[str, Any], folder: Path, objects: Objects, claims: Mapping[str, Path]) -> None:
        self._folder = folder
        self._group = spec.get("securityContext", {}).get("fsGroup")
        self._volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        self.outside: dict[str, Path] = {}
        """Folders that are not the pod's own, by volume."""
        for name, volume in self._volumes.items():
            self._make(name, volume, objects, claims)

    def mounts(self, container: Mapping[str, Any]) -> Iterator[tuple[str, Path, bool]]:
        """Path in the container, folder or file outside, and whether it is read-only there."""
        for mount in container.get("volumeMounts", ()):
            name = mount["name"]
            if name not in self._volumes:
                raise NotConfigured(f"{container['name']} mounts {name!r}, which is no volume of its pod")
            source = self.outside.get(name, self._folder / name) / mount.get("subPath", "")
            is_given = any(kind in self._volumes[name] for kind in ("secret", "configMap", "projected"))
            yield mount["mountPath"], source, mount.get("readOnly", False) or is_given

    def refresh(self, objects: Objects) -> None:
        """Files of Secrets and ConfigMaps become what those are now, each at once."""
        for name, volume in self._volumes.items():
            for source in _sources(volume):
                self._write(self._folder / name, source, objects)

    def _make(self, name: str, volume: Mapping[str, Any], objects: Objects, claims: Mapping[str, Path]) -> None:
        if len(volume) != 2:
            raise ValueError(f"a volume has a name and exactly one source: {dict(volume)}")
        folder = self._folder / name
        if "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, 0, self._group or 0)
            folder.chmod(0o2777 if self._group else 0o777)
        elif outside := volume.get("persistentVolumeClaim", {}).get("claimName") or volume.get("hostPath", {}).get(
            "path"
        ):
            if outside not in claims:
                raise NotConfigured(f"nobody gave a folder for the volume {outside!r}")
            self.outside[name] = claims[outside]
        elif sources := _sources(volume):
            folder.mkdir(parents=True, exist_ok=True)
            for source in sources:
                self._write(folder, source, objects)
        else:
            raise ValueError(f"this kind of volume is not known here: {dict(volume)}")

    def _write(self, folder: Path, source: Mapping[str, Any], objects: Objects) -> None:
        known = objects.secrets if "secret" in source else objects.config_maps
        own = source.get("secret") or source.get("configMap") or {}
        reference = own.get("secretName") or own.get("name", "")
        if reference not in known:
            if own.get("optional"):
                return
            raise NotConfigured(f"the volume {folder.name!r} wants {reference!r}, which is not there")
        data = known[reference]
        items = own.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] not in data:
                raise NotConfigured(f"{reference!r} has no key {item['key']!r}")
            mode = item.get("mode", own.get("defaultMode", source.get("defaultMode", 0o644)))
            self._replace(folder / item["path"], data[item["key"]], mode)

    def _replace(self, path: Path, text: str, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(text)
        os.chown(draft, 0, self._group or 0)
        draft.chmod(mode | (0o040 if self._group else 0))  # the kubelet lets the pod's group read them
        draft.replace(path)


def _sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What its files come from, if they come from Secrets and ConfigMaps."""
    if "projected" in volume:
        mode = volume["projected"].get("defaultMode", 0o644)
        return [{"defaultMode": mode, **source} for source in volume["projected"]["sources"]]
    return [volume] if "secret" in volume or "configMap" in volume else []
