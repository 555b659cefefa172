"""One forward over everything that wants a token: whole prompts and single next tokens, packed into one row."""

# T packed tokens, N sequences, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sampler.backends.local.adapter_files import Adapter
from sampler.backends.local.attention import Prompt, SlotLayout, UnsupportedBase
from sampler.backends.local.kv_cache import SlotCache
from sampler.backends.local.lora import LoraHooks, RowSlice


class Packable(Protocol):
    """What a forward needs of a sequence: its tokens, how many the cache has, in which row, and under which weights."""

    ids: list[int]
    cached: int
    row: int
    adapter: Adapter


class PackedModel:
    """The base with all adapters on it. Sequences must come with those of one adapter side by side."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self.hooks = LoraHooks(model, model.get_output_embeddings())

    def forward(self, sequences: Sequence[Packable], num_rows: int) -> Tensor:
        """Logits [N, V] after each sequence's last token, whose keys and values the cache then has.

        num_rows: rows of the cache in use, those of the sequences among them.
        """
        starts = [0]
        for sequence in sequences:
            starts.append(starts[-1] + len(sequence.ids) - sequence.cached)
        self._route_adapters(sequences, starts)
        output: Any = self._model(
            input_ids=torch.tensor([[token for s in sequences for token in s.ids[s.cached :]]]),
            position_ids=torch.tensor([[p for s in sequences for p in range(s.cached, len(s.ids))]]),
            use_cache=False,
            logits_to_keep=torch.tensor(starts[1:]) - 1,
            slot_layout=self._layout(sequences, starts, num_rows),
        )
        for sequence in sequences:
            sequence.cached = len(sequence.ids)
        return output.logits[0]

    def _route_adapters(self, sequences: Sequence[Packable], starts: list[int]) -> None:
        token_rows: list[RowSlice] = []
        logit_rows: list[RowSlice] = []
        first = 0
        for adapter, group in groupby(sequences, key=lambda s: s.adapter):
            after = first + len(list(group))
            if adapter.pairs:
                token_rows.append((adapter, starts[first], starts[after]))
                logit_rows.append((adapter, first, after))
            first = after
        self.hooks.route(token_rows, logit_rows, starts[-1], len(sequences))

    def _layout(self, sequences: Sequence[Packable], starts: list[int], num_rows: int) -> SlotLayout:
        prompts: list[Prompt] = []
        next_tokens: list[tuple[int, int, int]] = []
        for sequence, start, stop in zip(sequences, starts, starts[1:], strict=False):
            if stop - start == 1:
                next_tokens.append((start, sequence.row, sequence.cached))
            else:
                assert sequence.cached == 0, "a sequence is packed from its beginning, or one token at a time"
                prompts.append(Prompt(start, stop, sequence.row))
        longest = max(len(s.ids) for s in sequences)
        tokens_D, rows_D, positions_D = torch.tensor(next_tokens, dtype=torch.long).view(-1, 3).unbind(1)
        slots_2NRKSE = self._cache.slots_2NRKSE[:, :, :num_rows, :, :longest]
        return SlotLayout(slots_2NRKSE, prompts, tokens_D, rows_D, positions_D)


@dataclass(slots=True)
class _Probe:
    ids: list[int]
    adapter: Adapter
    cached: int = 0
    row: int = 0


def require_exact(packed: PackedModel, cache: SlotCache, expected_TV: Tensor) -> None:
    """Hold the packed way against transformers' own forward of tokens 0, 1, 2 …: a prompt, then a token at a time.

    It catches what an architecture does that nobody thought of here. Raises UnsupportedBase.
    """
    tolerance = 1e-3 if cache.slots_2NRKSE.dtype == torch.float32 else 0.1
    try:
        error = _largest_error(packed, cache, expected_TV)
    except RuntimeError as failure:
        raise UnsupportedBase(f"the local sampler cannot compute this base: {failure}") from failure
    if not error <= tolerance * float(expected_TV.abs().max()):
        raise UnsupportedBase("the local sampler does not reproduce this base's logits; use another backend")


def _largest_error(packed: PackedModel, cache: SlotCache, expected_TV: Tensor) -> float:
    probe = _Probe(ids=[], adapter=Adapter("probe", {}))
    errors: list[float] = []
    with torch.inference_mode():
        cache.reserve(1, len(expected_TV))
        for num_tokens in range(2, len(expected_TV) + 1):
            probe.ids = list(range(num_tokens))
            logits_V = packed.forward([probe], num_rows=1)[0].float()
            errors.append(float((logits_V - expected_TV[num_tokens - 1]).abs().max()))
    return float(torch.tensor(errors).max())  # NaN, if there is one
