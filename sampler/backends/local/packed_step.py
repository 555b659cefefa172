"""One forward over everything that wants a token: whole prompts and single next tokens, packed into one row."""

# T packed tokens, N sequences, V vocabulary, H hidden size, P consecutive tokens of a prompt

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sampler.backends.local.adapter_files import Adapter
from sampler.backends.local.attention import Prompt, SlotLayout
from sampler.backends.local.base_model import text_part
from sampler.backends.local.kv_cache import SlotCache
from sampler.backends.local.lora import LoraHooks, RowSlice
from sampler.backends.local.vision import Piece, Shown, Vision

_HEAD_FLOATS = 2**25
"""So many logits of a prompt's tokens are held at once."""

_Part = tuple[Sequence[int], int, Shown | None]
"""A sequence's tokens, how many of them are not packed, and what its prompt shows."""


class Packable(Protocol):
    """What a forward needs of a sequence: its tokens, what its prompt shows (of a base that sees), how many tokens the
    cache has, in which row, and under which weights."""

    ids: list[int]
    shown: Shown | None
    cached: int
    row: int
    adapter: Adapter


class PackedModel:
    """The base with all adapters on it. Sequences must come with those of one adapter side by side. vision: of a base
    that sees, whose decoder and head are called by themselves: its own forward takes placeholder ids for pictures
    wherever they stand."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache, vision: Vision | None = None) -> None:
        self._model = model
        self._cache = cache
        self._vision = vision
        self._decoder: Any = model.get_decoder()
        self._head: Any = model.get_output_embeddings()
        self._head_is_last = False
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self.hooks = LoraHooks(model, text_part(model), self._head)

    def forward(self, sequences: Sequence[Packable], num_rows: int) -> Tensor:
        """Logits [N, V] after each sequence's last token, whose keys and values the cache then has.

        num_rows: rows of the cache in use, those of the sequences among them.
        """
        starts = [0]
        for sequence in sequences:
            starts.append(starts[-1] + len(sequence.ids) - sequence.cached)
        self._route_adapters(sequences, starts)
        logits_NV = self._logits(
            [(sequence.ids, sequence.cached, sequence.shown) for sequence in sequences],
            torch.tensor(starts[1:]) - 1,
            self._layout(sequences, starts, num_rows),
        )
        for sequence in sequences:
            sequence.cached = len(sequence.ids)
        return logits_NV

    def prompt_logits(
        self, ids: Sequence[int], adapter: Adapter, first: int, shown: Shown | None = None
    ) -> Iterator[Tensor]:
        """Logits [P, V] after ids[first], ids[first + 1] …, all but the last, in pieces. The cache is not touched."""
        stop = len(ids) - 1
        after = list(range(first, stop))
        if not after:
            return
        hidden_TH = self._hidden(ids, adapter, shown) if self._head_is_last else None
        num_rows = max(1, _HEAD_FLOATS // self._vocab_size)
        for start in range(first, stop, num_rows):
            rows = slice(start, min(start + num_rows, stop))
            if hidden_TH is None:
                yield self._all_logits(ids, adapter, rows, shown)
            else:
                self._route_prompt(adapter, len(ids), rows.stop - rows.start)
                yield self._head(hidden_TH[rows])

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [T, V] after each of a prompt's tokens, under the base itself. The cache is not touched."""
        with torch.inference_mode():
            return self._all_logits(ids, Adapter("base", {}), slice(0, len(ids)), None)

    def check_head(self, ids: Sequence[int], expected_TV: Tensor, tolerance: float) -> None:
        """Whether the head's output are the logits, as `prompt_logits` computes them; some bases scale or cap it."""
        with torch.inference_mode():
            hidden_TH = self._hidden(ids, Adapter("probe", {}), None)
            error = float((self._head(hidden_TH).float() - expected_TV).abs().max())
        self._head_is_last = error <= tolerance * float(expected_TV.abs().max())

    def _hidden(self, ids: Sequence[int], adapter: Adapter, shown: Shown | None) -> Tensor:
        self._route_prompt(adapter, len(ids), len(ids))
        inputs, layout = self._inputs([(ids, 0, shown)]), self._prompt_layout(ids, shown)
        output: Any = self._decoder(**inputs, use_cache=False, slot_layout=layout)
        return output.last_hidden_state[0]

    def _all_logits(self, ids: Sequence[int], adapter: Adapter, rows: slice, shown: Shown | None) -> Tensor:
        kept = torch.arange(rows.start, rows.stop)
        self._route_prompt(adapter, len(ids), len(kept))
        return self._logits([(ids, 0, shown)], kept, self._prompt_layout(ids, shown))

    def _logits(self, packed: Sequence[_Part], kept_N: Tensor, layout: SlotLayout) -> Tensor:
        """[N, V] after these of the packed tokens."""
        inputs = self._inputs(packed)
        if self._vision is None:
            output: Any = self._model(**inputs, use_cache=False, logits_to_keep=kept_N, slot_layout=layout)
            return output.logits[0]
        output = self._decoder(**inputs, use_cache=False, slot_layout=layout)
        return self._head(output.last_hidden_state[0, kept_N])

    def _inputs(self, packed: Sequence[_Part]) -> dict[str, Any]:
        if self._vision is not None:
            return self._vision.inputs([Piece(ids, start, self._shown(ids, shown)) for ids, start, shown in packed])
        return {
            "input_ids": torch.tensor([[token for ids, start, _ in packed for token in ids[start:]]]),
            "position_ids": torch.tensor([[at for ids, start, _ in packed for at in range(start, len(ids))]]),
        }

    def _shown(self, ids: Sequence[int], shown: Shown | None) -> Shown:
        assert self._vision is not None
        return shown or self._vision.shown(ids)

    def _two_way(self, shown: Shown | None) -> tuple[tuple[int, int], ...]:
        return self._vision.two_way(shown) if self._vision is not None and shown is not None else ()

    def _prompt_layout(self, ids: Sequence[int], shown: Shown | None) -> SlotLayout:
        none = torch.zeros(0, dtype=torch.long)
        prompt = Prompt(0, len(ids), None, self._two_way(shown))
        return SlotLayout(self._cache.slots_2NRKSE, [prompt], none, none, none)

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
                prompts.append(Prompt(start, stop, sequence.row, self._two_way(sequence.shown)))
        longest = max(len(s.ids) for s in sequences)
        tokens_D, rows_D, positions_D = torch.tensor(next_tokens, dtype=torch.long).view(-1, 3).unbind(1)
        slots_2NRKSE = self._cache.slots_2NRKSE[:, :, :num_rows, :, :longest]
        return SlotLayout(slots_2NRKSE, prompts, tokens_D, rows_D, positions_D)
