"""Logprobs of a prompt's own tokens: a forward pass over the prompt alone, between two steps of the engine."""

# P scored tokens of a piece, V vocabulary, W alternatives, K targets of a token

from __future__ import annotations

import asyncio

import torch
from torch import Tensor

from sampler.backends.local.adapter_files import Adapter
from sampler.backends.local.packed_step import PackedModel
from sampler.backends.local.vision import Shown
from sampler.pictures.scores import without_pictures
from wire.errors import HeadwayError
from wire.sampling import PromptScores, ScoreRequest


class ScoringTask:
    """A request for scores, made on the event loop that waits for them."""

    def __init__(self, request: ScoreRequest, adapter: Adapter, shown: Shown | None = None) -> None:
        self.request = request
        self.adapter = adapter
        self.shown = shown
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._scores: asyncio.Future[PromptScores] = self._loop.create_future()

    async def wait(self) -> PromptScores:
        """The scores. Raises the error that `end` was called with."""
        return await self._scores

    def end(self, scores: PromptScores | Exception) -> None:
        """From any thread. A loop that is closed has nobody left to read."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, scores)

    def _set(self, scores: PromptScores | Exception) -> None:
        if self._scores.done():
            return
        if isinstance(scores, Exception):
            self._scores.set_exception(scores)
        else:
            self._scores.set_result(scores)


def score_prompt(
    model: PackedModel, request: ScoreRequest, adapter: Adapter, shown: Shown | None = None
) -> PromptScores:
    """What the request asks for. Raises HeadwayError for logits that are not finite."""
    ids, first = request.prompt_token_ids, request.first
    scores = PromptScores(logprobs=[])
    found = list[Tensor]()
    at = first
    for logits_PV in model.prompt_logits(ids, adapter, first - 1, shown):
        logits_PV = logits_PV.float()
        partition_P1 = logits_PV.logsumexp(-1, keepdim=True)
        end = at + len(logits_PV)
        own_P1 = logits_PV.gather(1, torch.tensor(ids[at:end])[:, None]) - partition_P1
        scores.logprobs += own_P1[:, 0].tolist()
        if request.top_logprobs:
            top_PW, ids_PW = logits_PV.topk(min(request.top_logprobs, logits_PV.shape[1]), dim=-1)
            scores.top_ids += ids_PW.tolist()
            scores.top_logprobs += (top_PW - partition_P1).tolist()
        if request.targets is not None:
            targets_PK = torch.tensor(request.targets[at - 1 : end - 1])
            found.append(logits_PV.gather(1, targets_PK.clamp(min=0)) - partition_P1)
        at = end
    if not torch.tensor(scores.logprobs).isfinite().all():
        raise HeadwayError(f"adapter {adapter.name} gives logits that are not finite")
    if request.targets is not None:
        scores.targets = _in_layout(request, request.targets, found)
    return without_pictures(scores, request)


def _in_layout(request: ScoreRequest, targets: list[list[int]], found: list[Tensor]) -> list[list[float | None]]:
    """Also the rows of tokens that were not scored, which hold nothing."""
    values = [row for piece in found for row in piece.tolist()]
    rows: list[list[float | None]] = [[None] * len(row) for row in targets[: request.first - 1]]
    for asked, scored in zip(targets[request.first - 1 :], values, strict=True):
        rows.append([None if token_id < 0 else value for token_id, value in zip(asked, scored, strict=True)])
    return rows
