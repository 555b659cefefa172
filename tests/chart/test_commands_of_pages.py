"""Commands of helm and kubectl that pages and the notes of an installation have readers type: the tools know each
subcommand and option, what they name is made, and every Secret that a pod needs is made by one of them."""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.chart.pods import Pod, pods
from tests.chart.rendering import CHART, Document, profiles, render
from tests.chart.tools import ROOT, helm, kubectl
from tests.unit.docs.shell_commands import commands

NAMES = ("kubernetes", "fleet", "tls", "elastic", "recipes", "upgrades", "deploy")
PAGES = [ROOT / "docs" / f"{name}.md" for name in NAMES]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:helm|kubectl) [^`]+)`")
HEADINGS = re.compile(r"^(?:[A-Z][\w ]*)?(?:Available )?Commands[^\n]*:\n((?:  .*\n)+)", re.MULTILINE)
SUBSTITUTION = re.compile(r"\$\([^()]*\)")
TAKE_A_WORD = ("-n", "--namespace")
KINDS = {
    "deploy": "Deployment",
    "deployment": "Deployment",
    "service": "Service",
    "job": "Job",
    "serviceaccount": "ServiceAccount",
    "networkpolicy": "NetworkPolicy",
}


@functools.cache
def notes() -> str:
    """What helm prints after an installation with everything that they speak of."""
    profile = CHART / "profiles" / "no-gpu.yaml"
    command = [helm(), "install", "headway", CHART, "--namespace", "headway", "--dry-run=client", "--values", profile]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\nNOTES:\n")[2]


def typed(text: str) -> Iterator[list[str]]:
    """Commands of both tools in a page, or in the notes."""
    shells = [body for language, body in BLOCK.findall(text) if language == "bash"] or [text]
    inline = [code.replace("\n", " ") for code in INLINE.findall(BLOCK.sub("", text))]
    for code in (*shells, *inline):
        found = commands(SUBSTITUTION.sub("X", code))
        yield from (command for command in found if command[0] in ("helm", "kubectl") and len(command) > 1)


def every() -> list[list[str]]:
    return [command for text in (*(page.read_text() for page in PAGES), notes()) for command in typed(text)]


@functools.cache
def help_of(*command: str) -> str:
    tool = {"helm": helm, "kubectl": kubectl}[command[0]]()
    asked = ["options"] if command == ("kubectl", "--global") else [*command[1:], "--help"]
    return subprocess.run([tool, *asked], capture_output=True, text=True, check=True).stdout


def subcommands(*command: str) -> set[str]:
    return {line.split()[0] for lines in HEADINGS.findall(help_of(*command)) for line in lines.splitlines()}


def options(*command: str) -> set[str]:
    text = help_of(*command) + (help_of("kubectl", "--global") if command[0] == "kubectl" else "")
    lines = re.findall(r"^ +(-.*)", text, re.MULTILINE)
    return {option for line in lines for option in re.findall(r"^-\w|--[\w-]+", line)}


def unknown(words: list[str]) -> Iterator[str]:
    """Subcommands and options that the tool does not have."""
    words = words[: words.index("--")] if "--" in words else words
    command, shown = [words[0]], " ".join(words)
    for before, word in itertools.pairwise(words):
        if word.startswith("-") or before in TAKE_A_WORD:
            continue
        if not subcommands(*command):
            break
        if word not in subcommands(*command):
            yield f"{shown}: no command {word}"
            return
        command.append(word)
    given = [word.partition("=")[0] for word in words if re.match(r"--?\w", word)]
    yield from (f"{shown}: no option {option}" for option in given if option not in options(*command))


def test_helm_and_kubectl_know_every_command_of_the_pages():
    found = [line for words in every() for line in unknown(words)]
    assert found == []
    assert {words[0] for words in every()} == {"helm", "kubectl"}


def test_commands_that_they_do_not_know_are_found():
    text = "helm instal a b\nkubectl -n a rollout restrat x\nkubectl -n a create secret generic b --from-litteral=c=d\n"
    assert [line.partition(": ")[2] for words in typed(text) for line in unknown(words)] == [
        "no command instal",
        "no command restrat",
        "no option --from-litteral",
    ]


def made() -> list[Document]:
    return [document for profile in profiles() for document in render(profile)]


def test_what_commands_name_is_in_the_chart():
    there = {(document["kind"], document["metadata"]["name"]) for document in made()}
    for words in every():
        for kind, name in re.findall(rf"(?<![\w/])({'|'.join(KINDS)})/(headway[\w-]*)", " ".join(words)):
            assert (KINDS[kind], name) in there, words
        if words[1:5] == ["-n", "headway", "delete", "job,serviceaccount,networkpolicy"]:
            assert {(KINDS[kind], words[5]) for kind in words[4].split(",")} <= there


def wanted(pod: Pod) -> Iterator[tuple[str, str]]:
    """Secrets that a pod does not start without, and their keys."""
    for container in pod.all_containers:
        for variable in container.get("env") or []:
            reference: dict[str, Any] | None = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if reference:
                yield reference["name"], reference["key"]
    for volume in pod.spec.get("volumes") or []:
        for item in (volume.get("secret") or {}).get("items") or []:
            yield volume["secret"]["secretName"], item["key"]


def created() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for words in every():
        if "secret" in words and "generic" in words:
            name = words[words.index("generic") + 1]
            given = [word.partition("=")[2] for word in words if word.startswith(("--from-literal=", "--from-file="))]
            found |= {(name, pair.partition("=")[0]) for pair in given}
    return found


def test_every_secret_that_a_pod_needs_is_made_by_a_command_of_the_pages():
    needed = {secret for pod in pods(made()) for secret in wanted(pod)}
    assert needed - created() == set()
