"""Every field of a request for a model of this server is served, neutral or refused by name, as in chats
(docs/decisions/0037-parameter-allow-list.md)."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from server.protocols.anthropic.schemas import PromptRequest
from server.values.finite_numbers import check_finite
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

UNSERVED: Mapping[str, Container[Any]] = {
    # Who asks, what for, how urgently, and what the vendor's cache should keep.
    "metadata": ANY,
    "service_tier": ANY,
    "speed": ANY,
    "inference_geo": ANY,
    "user_profile_id": ANY,
    "workspace_id": ANY,
    "billing_policy": ANY,
    "cache_control": ANY,
    "diagnostics": ANY,
    # What is sampled, from what, and by whom.
    "container": (),
    "mcp_servers": ([],),
    "fallbacks": ([],),
    "fallback_credit_token": (),
    "compaction": (),
    "thread": (),
    "output_format": (),
}
"""At which values other fields of the API change nothing."""
_THINKING: Mapping[str, Container[Any]] = {
    "display": ("summarized",),  # all of it is shown, and nothing left out
    "block_binding": ANY,  # what becomes of a block whose signature does not fit: signatures are not looked at
}
_KEEPS_THINKING = "clear_thinking_20251015"


def check_parameters(request: PromptRequest) -> None:
    """Raises InvalidRequest for a field that is neither served nor neutral, or holds a number that is not finite."""
    check_finite(request)
    check_fields("", request.model_extra or {}, type(request).model_fields, UNSERVED)
    managed = request.context_management or {}
    check_fields("context_management.", managed, ("edits",))
    if not isinstance(managed.get("edits"), list | None):
        raise InvalidRequest("context_management.edits must be a list", param="context_management.edits")
    for index, edit in enumerate(managed.get("edits") or []):
        _check_edit(f"context_management.edits[{index}]", edit)


def thinking_arguments(request: PromptRequest, max_tokens: int | None) -> dict[str, Any]:
    """What `thinking` says to a chat template: `enable_thinking`, where it says that. Raises InvalidRequest."""
    asked = request.thinking
    if asked is None:
        return {}
    kind, budget = asked.get("type"), asked.get("budget_tokens")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise InvalidRequest("thinking.type must be 'enabled', 'adaptive' or 'disabled'", param="thinking.type")
    check_fields("thinking.", asked, ("type", "budget_tokens"), _THINKING)
    binds = max_tokens is not None and not (isinstance(budget, int) and budget >= max_tokens - 1)
    if budget is not None and binds:
        raise InvalidRequest(
            "thinking.budget_tokens cannot be kept by this server, unless it leaves max_tokens as the only bound; send "
            'thinking {"type": "adaptive"}, and bound the answer with max_tokens',
            param="thinking.budget_tokens",
        )
    return {} if kind == "adaptive" else {"enable_thinking": kind == "enabled"}


def effort_arguments(request: PromptRequest) -> dict[str, Any]:
    """What `output_config.effort` says to a chat template: `reasoning_effort`."""
    check_fields("output_config.", request.output_config or {}, ("effort", "format"))
    effort = (request.output_config or {}).get("effort")
    if effort is None:
        return {}
    if not isinstance(effort, str):
        raise InvalidRequest("output_config.effort must be a text", param="output_config.effort")
    return {"reasoning_effort": effort}


def _check_edit(where: str, edit: Any) -> None:
    if not isinstance(edit, dict) or edit.get("type") != _KEEPS_THINKING or edit.get("keep") != "all":
        raise InvalidRequest(
            f"{where} would leave parts of the conversation out, which this server does not do; it takes "
            f'{{"type": "{_KEEPS_THINKING}", "keep": "all"}} alone',
            param=where,
        )
    check_fields(f"{where}.", edit, ("type", "keep"))
