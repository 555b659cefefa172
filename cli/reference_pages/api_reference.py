"""docs/api.md, from the routes of the app: `python -m cli.reference_pages.api_reference` writes it. Examples stand in
`cli.reference_pages.api_examples`; a test carries all of them out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from cli.reference_pages.api_examples import EXAMPLES, FIRST
from server.app import create_app
from server.http.access import Access, Anybody
from server.http.authentication import KeyAccess, ScraperAccess, SentKey
from server.http.routing import accesses_of
from server.process.settings import ServerSettings

_INTRODUCTION = """\
# API reference

Written by `make docs` from the routes; change those, not this file. `/docs` on a server shows the same with every field
of requests and replies, `/openapi.json` is for generators.

A key goes along as `Authorization: Bearer KEY` or `X-API-Key: KEY`. "May call" is the scope that it needs
([roles](admin.md#roles)). A refusal is `{"detail", "code"}` with one sentence (on OpenAI's, Anthropic's and Tinker's
routes in their own shape); what to do about it: [troubleshooting](troubleshooting.md). Lists page by `limit` and
`cursor`: hand in the `next_cursor` of the last page. Unknown fields are refused.

The examples can be pasted one after the other. They begin with:
"""
_NOUNS = {
    "health": "Health",
    "account": "Account",
    "models": "Models",
    "gateway": "Sampling",
    "training": "Training",
    "jobs": "Jobs",
    "traces": "Rollouts",
    "evals": "Held-out scores",
    "guard": "Guard",
    "trainability": "Trainability",
    "tasksets": "Tasksets",
    "environments": "Environments",
    "runtime": "Sessions of environments",
    "rollouts": "Hosted rollouts",
    "runs": "Runs",
    "files": "Files",
    "fine-tuning": "Fine-tuning",
    "team": "Team",
    "admin": "Operators",
    "runners": "Runners",
    "operations": "Figures for Prometheus and autoscalers",
    "hud rl": "HUD RL",
    "tinker": "Tinker",
}
"""Headings by tag, in order. A tag that is missing here fails the test of the page."""


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: str
    may_call: str
    does: str


def render() -> str:
    """The whole of docs/api.md."""
    routes = _routes()
    assert set(routes) == set(_NOUNS), set(routes) ^ set(_NOUNS)
    parts = [_INTRODUCTION, _shell(FIRST)]
    for tag, heading in _NOUNS.items():
        parts += [f"## {heading}\n", _table(routes[tag])]
        if tag in EXAMPLES:
            parts.append(_shell(EXAMPLES[tag]))
    return "\n".join(parts).rstrip("\n") + "\n"


def _shell(text: str) -> str:
    return f"```bash\n{text.strip()}\n```\n"


def _table(routes: list[_Route]) -> str:
    rows = [f"| `{one.method} {one.path}` | {one.may_call} | {one.does} |" for one in routes]
    return "\n".join(["| route | may call | what it does |", "| --- | --- | --- |", *rows]) + "\n"


def _routes() -> dict[str, list[_Route]]:
    app = create_app(ServerSettings("postgresql://nowhere/nothing", "file:///nowhere", "no token"))
    access = {(method, path): route for method, path, route in _endpoints(app)}
    found: dict[str, list[_Route]] = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            sentence = " ".join((operation.get("description") or operation["summary"]).split("\n\n")[0].split())
            may_call = _may_call(access[method.upper(), path], method.upper())
            does = sentence.replace("|", "\\|").replace("<", "&lt;")
            found.setdefault(operation["tags"][0], []).append(_Route(method.upper(), path, may_call, does))
    return found


def _endpoints(app: FastAPI) -> Iterator[tuple[str, str, APIRoute]]:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and context.include_in_schema:
            for method in context.methods or ():
                assert context.path_format is not None
                yield method, context.path_format, route


def _may_call(route: APIRoute, method: str) -> str:
    """The narrowest of what decides about callers."""
    return min((_word(access, method) for access in accesses_of(route)), key=lambda word: word == "any key")


def _word(access: Access, method: str) -> str:
    if isinstance(access, Anybody):
        return "anybody"
    if isinstance(access, KeyAccess):
        return " or ".join(access.scopes_for(method)) or "any key"
    if isinstance(access, ScraperAccess):
        return "admin, or the token for scrapes"
    if isinstance(access, SentKey):
        return "read" if method == "GET" else "train"
    return "a signed link" if type(access).__name__ == "UploadLink" else "sample"


if __name__ == "__main__":
    sys.stdout.write(render())
