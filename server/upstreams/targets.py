"""From the name of a model to the vendor that answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from server.sampling.admission import SamplingKey
from server.sampling.collaborators import Sampling
from server.sampling.target import Target
from server.sampling.targets import find_target, look_up
from server.upstreams.types import Api, Upstream, UpstreamTarget
from wire.errors import InvalidRequest, ModelNotFound

_MOST_SHOWN = 200
_OURS = ("return_token_ids", "prompt_token_ids", "continuation_from", "checkpoint")
"""What this server adds to a vendor's API, and no vendor can honour."""


def upstream_behind(key: SamplingKey) -> UpstreamTarget | None:
    """The vendor's model that a key was looked up with (`server.sampling.targets.look_up`); None for a model of ours,
    or none. Raises Forbidden where the key is for other models."""
    found = key.found
    if found.upstream is None or found.model_id is None or found.slug is None:
        return None
    key.caller.require_model(found.model_id, found.slug)
    structlog.contextvars.bind_contextvars(model_id=str(found.model_id))
    upstream = Upstream.model_validate(found.upstream)
    return UpstreamTarget(key.caller, found.model_id, found.slug, found.max_concurrent_rollouts, upstream)


async def find_upstream(sampling: Sampling, key: SamplingKey, model: str, api: Api, where: str) -> UpstreamTarget:
    """The vendor's model that the caller's team calls so. `where`: the route, for a refusal.

    Raises ModelNotFound, with how to add one, for a model that is none, or that is asked in another API.
    """
    key = await look_up(sampling.keys, key, model)
    target = upstream_behind(key)
    if target is None:
        shown, is_ours = repr(model[:_MOST_SHOWN]), key.found.model_id is not None
        what = f"{shown} is a model of this server, which answers chats" if is_ours else f"there is no model {shown}"
        raise ModelNotFound(f"{what}; {where} is for other vendors' models, and {_how_to_add(api)}", param="model")
    require_api(target, api, where)
    return target


async def find_either(
    sampling: Sampling, key: SamplingKey, model: str, pinned: str | None, api: Api, where: str
) -> Target | UpstreamTarget:
    """What the caller's team calls so: a model of this server (see `find_target`), or a vendor's that is asked in this
    API. Raises ModelNotFound, with how to add a vendor's, for a name that is neither."""
    key = await look_up(sampling.keys, key, model, pinned)
    if (vendors := upstream_behind(key)) is not None:
        require_api(vendors, api, where)
        return vendors
    try:
        return await find_target(sampling, key, model, pinned)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error.message}; for another vendor's model, {_how_to_add(api)}", param="model") from None


def _how_to_add(api: Api) -> str:
    return (
        f"an operator can add one: headway upstreams add NAME --api {api} --base-url URL --model VENDOR_NAME "
        "--key-file PATH"
    )


def require_api(target: UpstreamTarget, api: Api, where: str) -> None:
    """Raises ModelNotFound for a model that is asked in another API."""
    if target.upstream.api != api:
        raise ModelNotFound(
            f"{target.slug!r} is asked in the API {target.upstream.api!r}, not by {where}", param="model"
        )


def vendors_body(target: UpstreamTarget, body: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What is sent on: what the caller sent, under the vendor's name of the model. Raises InvalidRequest for what this
    server alone could do."""
    for name in _OURS:
        if body.get(name) not in (None, False):
            raise InvalidRequest(
                f"{name} cannot be honoured for {target.slug!r}, another vendor's model: leave it out", param=name
            )
    return {**{name: value for name, value in body.items() if name not in _OURS}, **more}
