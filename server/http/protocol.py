"""What a wire protocol is to the app that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from server.http.problem import Problem


@dataclass(frozen=True, slots=True)
class Protocol:
    """The routers of a protocol, whose routes name the shape of its refusals, and that shape for the OpenAPI document.

    Routes are tried in turn. `first`: before those of all other protocols, for what is asked most; `last`: after them.
    """

    routers: Sequence[APIRouter]
    first: Sequence[APIRouter] = ()
    last: Sequence[APIRouter] = ()
    refusal: type[BaseModel] = Problem


def serve_protocols(app: FastAPI, protocols: Sequence[Protocol]) -> None:
    """Have the app answer all routes of the protocols."""
    stages: Sequence[Callable[[Protocol], Sequence[APIRouter]]] = (
        lambda one: one.first,
        lambda one: one.routers,
        lambda one: one.last,
    )
    for routers_of in stages:
        for one in protocols:
            responses: dict[int | str, dict[str, Any]] = {"default": {"model": one.refusal, "description": "A refusal"}}
            for router in routers_of(one):
                app.include_router(router, responses=responses)
