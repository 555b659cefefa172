"""One forward over everything that wants a token: whole prompts and single next tokens, packed into one row."""

# T packed tokens, N sequences, V vocabulary, H hidden size, P consecutive tokens of a prompt

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

_HEAD_FLOATS = 2**25
"""So many logits of a prompt's tokens are held at once."""


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
        self._decoder: Any = model.get_decoder()
        self._head: Any = model.get_output_embeddings()
        self._head_is_last = False
        self.hooks = LoraHooks(model, self._head)

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

    def prompt_logits(self, ids: Sequence[int], adapter: Adapter, first: int) -> Iterator[Tensor]:
        """Logits [P, V] after ids[first], ids[first + 1] …, all but the last, in pieces. The cache is not touched."""
        stop = len(ids) - 1
        after = list(range(first, stop))
        if not after:
            return
        hidden_TH = self._hidden(ids, adapter) if self._head_is_last else None
        num_rows = max(1, _HEAD_FLOATS // self._model.config.vocab_size)
        for start in range(first, stop, num_rows):
            rows = slice(start, min(start + num_rows, stop))
            if hidden_TH is None:
                yield self._all_logits(ids, adapter, rows)
            else:
                self._route_prompt(adapter, len(ids), rows.stop - rows.start)
                yield self._head(hidden_TH[rows])

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [T, V] after each of a prompt's tokens, under the base itself. The cache is not touched."""
        with torch.inference_mode():
            return self._all_logits(ids, Adapter("base", {}), slice(0, len(ids)))

    def check_head(self, expected_TV: Tensor) -> None:
        """Whether the head's output are the logits, as `prompt_logits` computes them; some bases scale or cap it."""
        with torch.inference_mode():
            hidden_TH = self._hidden(range(len(expected_TV)), Adapter("probe", {}))
            error = float((self._head(hidden_TH).float() - expected_TV).abs().max())
        self._head_is_last = error <= _tolerance(hidden_TH.dtype) * float(expected_TV.abs().max())

    def _hidden(self, ids: Sequence[int], adapter: Adapter) -> Tensor:
        self._route_prompt(adapter, len(ids), len(ids))
        output: Any = self._decoder(**self._prompt_inputs(ids))
        return output.last_hidden_state[0]

    def _all_logits(self, ids: Sequence[int], adapter: Adapter, rows: slice) -> Tensor:
        kept = torch.arange(rows.start, rows.stop)
        self._route_prompt(adapter, len(ids), len(kept))
        output: Any = self._model(**self._prompt_inputs(ids), logits_to_keep=kept)
        return output.logits[0]

    def _prompt_inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        none = torch.zeros(0, dtype=torch.long)
        return {
            "input_ids": torch.tensor([list(ids)]),
            "position_ids": torch.arange(len(ids))[None],
            "use_cache": False,
            "slot_layout": SlotLayout(self._cache.slots_2NRKSE, [Prompt(0, len(ids), None)], none, none, none),
        }

    def _route_prompt(self, adapter: Adapter, num_tokens: int, num_logits: int) -> None:
        token_rows = [(adapter, 0, num_tokens)] if adapter.pairs else []
        logit_rows = [(adapter, 0, num_logits)] if adapter.pairs else []
        self.hooks.route(token_rows, logit_rows, num_tokens, num_logits)

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
    tolerance = _tolerance(cache.slots_2NRKSE.dtype)
    try:
        error = _largest_error(packed, cache, expected_TV)
        packed.check_head(expected_TV)
    except RuntimeError as failure:
        raise UnsupportedBase(f"the local sampler cannot compute this base: {failure}") from failure
    if not error <= tolerance * float(expected_TV.abs().max()):
        raise UnsupportedBase("the local sampler does not reproduce this base's logits; use another backend")


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-3 if dtype == torch.float32 else 0.1


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
