"""Logprobs of a prompt's own tokens from vLLM, where it computes them right.

vLLM leaves the adapter of the head out of them, or takes that of another request; `worker_extension.py` mends that in
versions that are as it expects. So before the first prompt is scored, two random adapters are loaded, one on the head
and one elsewhere, and asked beside each other; where the logprobs of their prompts are not those with which they
sample, prompts are not scored under such adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from sampler.backends.vllm.adapter_folders import AdapterFolders
from sampler.backends.vllm.client import VllmClient
from sampler.backends.vllm.media import features
from sampler.pictures.scores import without_pictures
from wire.errors import HeadwayError, InvalidRequest, Unavailable
from wire.media_items import media_of
from wire.sampling import PromptScores, ScoreRequest
from wire.stored_names import HEAD

log = structlog.get_logger(__name__)

_PROBE = list(range(24))
_PREFIX_LENGTHS = (5, 11, 23)
_ROUNDS = 3
_TOLERANCE = 0.2
"""In nats. The random adapters change logprobs by about one; low precision by less than a tenth."""


@dataclass(frozen=True, slots=True)
class Rightness:
    """Under which adapters vLLM's prompt logprobs are those of the policy."""

    on_head: bool
    elsewhere: bool


class PromptScoring:
    """Of one server, which this process started. `elsewhere`: the path of a linear layer that is not the head."""

    def __init__(self, client: VllmClient, url: Callable[[], str], folders: AdapterFolders, elsewhere: str) -> None:
        self._client = client
        self._url = url
        self._folders = folders
        self._elsewhere = elsewhere
        self._lock = asyncio.Lock()
        self._rightness: Rightness | None = None

    async def score(self, request: ScoreRequest, served_as: str, *, is_on_head: bool, priority: int) -> PromptScores:
        """See SamplerBackend."""
        if request.targets is not None:
            raise InvalidRequest(
                "logprobs of given ids in the places of a prompt (targets) are computed by the local sampler only, "
                "and this base is served by vLLM",
                param="targets",
            )
        rightness = await self._checked()
        if not (rightness.on_head if is_on_head else rightness.elsewhere):
            where = "on the unembedding (lm_head) " if is_on_head else ""
            raise InvalidRequest(
                f"this version of vLLM computes wrong prompt logprobs under adapters {where}and they are not served"
            )
        ids, num_top = request.prompt_token_ids, request.top_logprobs
        more = {"priority": priority, **features(request.prompt_media)}
        rows = await self._client.prompt_logprobs(self._url(), served_as, ids, num_top, **more)
        return without_pictures(_scores(request, rows[request.first - 1 :]), request)

    async def _checked(self) -> Rightness:
        async with self._lock:
            if self._rightness is None:
                self._rightness = await self._check()
            return self._rightness

    async def _check(self) -> Rightness:
        on_head, elsewhere = await asyncio.gather(self._loaded(HEAD), self._loaded(self._elsewhere))
        try:
            asked = [self._agrees(folder) for folder in (on_head, elsewhere) for _ in range(_ROUNDS)]
            agreed = await asyncio.gather(*asked)
        finally:
            for folder in filter(None, (on_head, elsewhere)):
                await asyncio.to_thread(self._unload, folder)
        found = Rightness(all(agreed[:_ROUNDS]), all(agreed[_ROUNDS:]))
        log.info("prompt_logprobs_checked", on_head=found.on_head, elsewhere=found.elsewhere)
        return found

    async def _loaded(self, layer: str) -> Path | None:
        """The folder of a random adapter on this layer; None where vLLM takes none there."""
        folder = await asyncio.to_thread(self._folders.take_random, "probe", layer)
        try:
            await asyncio.to_thread(self._client.load, self._url(), folder.name, str(folder))
        except Unavailable:
            raise
        except HeadwayError as refused:
            log.warning("probe_not_loaded", layer=layer, reason=refused.message)
            self._folders.remove(folder)
            return None
        return folder

    async def _agrees(self, folder: Path | None) -> bool:
        if folder is None:
            return False
        name = folder.name
        prefixes = (_PROBE[:length] for length in _PREFIX_LENGTHS)
        asked = (asyncio.to_thread(self._client.logprob_of, self._url(), name, prefix, None) for prefix in prefixes)
        rows, sampled = await asyncio.gather(
            self._client.prompt_logprobs(self._url(), name, _PROBE, 1), asyncio.gather(*asked)
        )
        likeliest = [max(rows[length - 1].values()) for length in _PREFIX_LENGTHS]
        return all(abs(one - other) < _TOLERANCE for one, other in zip(likeliest, sampled, strict=True))

    def _unload(self, folder: Path) -> None:
        with contextlib.suppress(Unavailable):
            self._client.unload(self._url(), folder.name)
        self._folders.remove(folder)


def _scores(request: ScoreRequest, rows: list[dict[int, float]]) -> PromptScores:
    own = [row[token_id] for token_id, row in zip(request.prompt_token_ids[request.first :], rows, strict=True)]
    shown = {at for item in media_of(request.prompt_media) for at in range(item.start, item.stop)}
    if not all(math.isfinite(logprob) for at, logprob in enumerate(own, request.first) if at not in shown):
        raise HeadwayError(f"adapter {request.adapter} gives logits that are not finite")
    scores = PromptScores(logprobs=[*own])
    if request.top_logprobs:
        ranked = [sorted(row.items(), key=lambda pair: -pair[1])[: request.top_logprobs] for row in rows]
        scores.top_ids = [[token_id for token_id, _ in row] for row in ranked]
        scores.top_logprobs = [[logprob for _, logprob in row] for row in ranked]
    return scores
