"""Weights that are named by a Hugging Face id: whether they can be had, said within seconds, and their download.

The hub's own client tries a hub that does not answer again and again, for minutes, before it says so.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from pathlib import Path
from typing import Any

import structlog

from wire.errors import UNTIL_MENDED, HeadwayError

log = structlog.get_logger(__name__)

FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
"""What of a model is downloaded: no weights in formats that run code."""
_ANSWER_S = 5.0
_DECISION_S = 8.0
"""With the name's resolution, for which there is no timeout."""
_REMEDY = "give the path of a model folder (--base NAME=/path/to/model)"


class WeightsOutOfReach(HeadwayError):
    """The hub does not answer, or has no such model for us."""

    status, code, tries = 503, "weights_out_of_reach", UNTIL_MENDED


def require_weights(weights: str) -> None:
    """Weights in a folder or in the cache are found locally; others must be on the hub. Blocks for seconds at most.

    Where the hub does not answer and the cache has them all, the hub is left alone from now on. Raises
    WeightsOutOfReach with what to do.
    """
    if Path(weights).exists():
        return
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return  # whoever loads them has it
    cached = _is_cached(weights)
    if constants.HF_HUB_OFFLINE:
        if cached:
            return
        raise WeightsOutOfReach(
            f"the model {weights!r} is not in the cache of the Hugging Face hub, {constants.HF_HUB_CACHE}, and "
            f"HF_HUB_OFFLINE forbids a download: unset it, copy the model there, or {_REMEDY}"
        )
    problem = _problem(weights, constants.ENDPOINT)
    if problem is None:
        return
    if not cached:
        raise WeightsOutOfReach(problem)
    log.warning("hub_out_of_reach", weights=weights, used="the cache", problem=problem)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what we start


def fetch_weights(weights: str) -> None:
    """Have them in the hub's cache, with a log line every few seconds. After `require_weights`. Where this goes wrong,
    whoever loads them meets it again, and says so."""
    if Path(weights).exists() or _is_cached(weights):
        return
    from huggingface_hub import snapshot_download

    from wire.process.loading_progress import bar_of, size

    total = _total_bytes(weights)
    log.info("download_begins", weights=weights, size=size(total) if total else "unknown")
    bar: Any = bar_of(total)
    snapshot_download(weights, allow_patterns=FILES, tqdm_class=bar)
    log.info("download_ended", weights=weights)


def _total_bytes(weights: str) -> int | None:
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(weights, files_metadata=True, timeout=_ANSWER_S)
    except Exception:  # a mirror may not have this route, and it is for people alone
        return None
    wanted = (f for f in info.siblings or () if any(fnmatch(f.rfilename, pattern) for pattern in FILES))
    return sum(file.size or 0 for file in wanted) or None


def _is_cached(weights: str) -> bool:
    """Whether a whole model is there: an interrupted download left parts."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(weights, local_files_only=True))
        index = folder / "model.safetensors.index.json"
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    except (OSError, ValueError, KeyError):
        return False
    return all((folder / name).exists() for name in ("config.json", *shards))


def _problem(weights: str, endpoint: str) -> str | None:
    answers: queue.SimpleQueue[int | str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_ask(weights, endpoint)), name="hub", daemon=True).start()
    try:
        answer = answers.get(timeout=_DECISION_S)
    except queue.Empty:
        answer = f"no answer in {_DECISION_S:.0f} s"
    if isinstance(answer, str):
        return (
            f"the Hugging Face hub at {endpoint} cannot be reached for the model {weights!r} ({answer}): {_REMEDY}, "
            "name a mirror with HF_ENDPOINT, or bring its cache here from a machine that has it (HF_HOME)"
        )
    if answer in (401, 403, 404):
        return (
            f"the Hugging Face hub at {endpoint} has no model {weights!r} for us ({answer}): check the id, {_REMEDY}, "
            "or, for a private or gated model, set HF_TOKEN"
        )
    return None  # a hub that is busy or broken is its own client's business


def _ask(weights: str, endpoint: str) -> int | str:
    """The status of the hub's answer, or why there is none."""
    import httpx
    from huggingface_hub import get_token

    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"{endpoint}/{weights}/resolve/main/config.json"
        return httpx.head(url, headers=headers, timeout=_ANSWER_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return str(error) or type(error).__name__
