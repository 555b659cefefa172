"""Pods start what there is: commands, options and variables that exist, folders and ports that are there, and time to
end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tests.chart.command_line import ANYTHING, STAND_INS, Parsed, Refused, expanded, parsed, variables, words_of
from tests.chart.hardening import PROBES
from tests.chart.pods import Pod

STOPPING = {
    "server": ("stop_delay", "stop_grace"),
    "sampler": ("drain",),
    "trainer": ("stop_grace",),
    "runner": ("drain",),
}
"""Options with the seconds that a plane takes for what is under way after SIGTERM."""
ANSWERED = {
    "server": {"/healthz", "/readyz", "/readyz/server"},
    "sampler": {"/healthz"},
    "runner": {"/healthz"},
}
"""What planes answer to whoever asks without a key."""
PATHS = ("_DIR", "_FILE", "_TLS_CERT", "_TLS_KEY", "_PLANE_CA", "HF_HOME", "HOME")
WRITTEN = ("HEADWAY_DATA_DIR", "HOME", "HEADWAY_VLLM_ADAPTER_DIR")


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """Its variables, with stand-ins for what only a cluster knows."""
    given = {v["name"]: v.get("value", STAND_INS.get(v["name"], ANYTHING)) for v in container.get("env") or []}
    return {**{k: v for k, v in STAND_INS.items() if k.startswith("LWS_")}, **given}


def is_ours(container: dict[str, Any]) -> bool:
    """Whether it starts headway: by the image's own entry point, or by a command that names it."""
    command = container.get("command")
    if command:
        return words_of([*command, *(container.get("args") or [])]) is not None
    return container["image"].rpartition("/")[2].startswith("headway")


def command_of(container: dict[str, Any]) -> Parsed:
    """What it starts. Raises Refused."""
    command, arguments = container.get("command") or [], container.get("args") or []
    words = words_of([*command, *arguments]) if command else arguments
    environment = environment_of(container)
    return parsed(expanded(words or [], environment), environment)


def planes(pod: Pod) -> set[str]:
    """Names of the commands of headway that a pod runs, as far as they can be read."""
    found: set[str] = set()
    for container in pod.containers:
        if is_ours(container):
            words = words_of([*(container.get("command") or []), *(container.get("args") or [])])
            found.add((words or container.get("args") or [""])[0])
    return found


def misused(pod: Pod) -> Iterator[str]:
    """What a pod starts, sets or names that does not exist."""
    for container in pod.all_containers:
        title = pod.title(container)
        yield from (f"{title}: {line}" for line in _folders(pod, container))
        yield from (f"{title}: {line}" for line in _probed(container))
        yield from (f"{title}: {line}" for line in _set_twice(container))
        if not is_ours(container):
            continue
        try:
            command = command_of(container)
        except Refused as error:
            yield f"{title}: {error}"
        else:
            yield from (f"{title}: {line}" for line in _read(command, container))
            yield from (f"{title}: {line}" for line in _listening(command, container))
            yield from (f"{title}: {line}" for line in _asked(command, container))
            yield from (f"{title}: {line}" for line in _ending(pod, command, container))


def _set_twice(container: dict[str, Any]) -> Iterator[str]:
    """The API refuses the second, where it applies what it is given (as Helm 4 has it)."""
    names = [variable["name"] for variable in container.get("env") or []]
    yield from (f"{name} is set twice" for name in sorted({name for name in names if names.count(name) > 1}))


def _read(command: Parsed, container: dict[str, Any]) -> Iterator[str]:
    read = variables(command.command)
    for variable in container.get("env") or []:
        if variable["name"].startswith("HEADWAY_") and variable["name"] not in read:
            yield f"{variable['name']} is not read by headway {command.command}"


def _listening(command: Parsed, container: dict[str, Any]) -> Iterator[str]:
    declared = {port["containerPort"] for port in container.get("ports") or []}
    for option in ("port", "metrics_port"):
        if command.given.get(option) and command.given[option] not in declared:
            yield f"listens on {command.given[option]}, which its ports do not name"


def _asked(command: Parsed, container: dict[str, Any]) -> Iterator[str]:
    scheme = "HTTPS" if "HEADWAY_TLS_CERT" in environment_of(container) else "HTTP"
    for probe in PROBES:
        asked = (container.get(probe) or {}).get("httpGet")
        if asked and asked["path"] not in ANSWERED.get(command.command, set()):
            yield f"{probe} asks {asked['path']}, which headway {command.command} does not answer"
        if asked and asked.get("scheme", "HTTP") != scheme:
            yield f"{probe} asks by {asked.get('scheme', 'HTTP')}, and it listens with {scheme}"


def _ending(pod: Pod, command: Parsed, container: dict[str, Any]) -> Iterator[str]:
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    needed = float((hook.get("sleep") or {}).get("seconds", 0))
    needed += sum(float(command.given[option] or 0) for option in STOPPING.get(command.command, ()))
    patience = pod.spec.get("terminationGracePeriodSeconds", 30)
    if patience <= needed:
        yield f"is killed {patience} s after its end begins, and may take {needed:g} s (terminationGracePeriodSeconds)"


def _folders(pod: Pod, container: dict[str, Any]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes") or []}
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts") or []}
    for path, mount in mounts.items():
        if mount["name"] not in volumes:
            yield f"{path} is of volume {mount['name']}, which its pod has not"
    for variable in container.get("env") or []:
        name, value = variable["name"], str(variable.get("value", ""))
        if not (name.endswith(PATHS) and value.startswith("/")):
            continue
        mount = _mount_of(value, mounts)
        if mount is None:
            yield f"{name} is {value}, which is on no volume"
        elif name in WRITTEN and (mount.get("readOnly") or not _is_own(name, volumes.get(mount["name"], {}))):
            yield f"{name} is {value}, which has to be a folder of the pod's own (emptyDir) that it may write to"


def _is_own(variable: str, volume: dict[str, Any]) -> bool:
    """Adapters alone may lie on a claim, where vLLM on other pods of a group reads them."""
    return "emptyDir" in volume or (variable == "HEADWAY_VLLM_ADAPTER_DIR" and "persistentVolumeClaim" in volume)


def _mount_of(path: str, mounts: dict[str, Any]) -> dict[str, Any] | None:
    over = [str(folder) for folder in (PurePosixPath(path), *PurePosixPath(path).parents) if str(folder) in mounts]
    return mounts[over[0]] if over else None


def _probed(container: dict[str, Any]) -> Iterator[str]:
    there = {key for port in container.get("ports") or [] for key in (port.get("name"), port["containerPort"])}
    for probe in PROBES:
        for way in ("httpGet", "tcpSocket"):
            asked = (container.get(probe) or {}).get(way)
            if asked and asked["port"] not in there:
                yield f"{probe} asks port {asked['port']}, which it does not listen on"
