"""Counts a base on the meta device: transformers' own modules, PEFT's LoRA on them and our head, of which every tensor
has a shape and none has memory. What is alive at each moment of a pass is counted as it comes and goes.

Attention stands for the kernel of GPUs (FlexAttention): it keeps its inputs, its output and a log-sum-exp for each head
and token, and nothing that grows with pairs of tokens.
"""

# B = 1 row, H query heads, K key heads, T tokens, E head dimension, P predictions, V vocabulary, D hidden size

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, PreTrainedConfig, PreTrainedModel

from cli.sizing.base_counts import Activations, BaseCounts, Linear
from cli.sizing.presets import PRESETS
from trainer.engine.architectures import (
    Adaptable,
    decoder_layers,
    linear_mixers,
    unembedding_weight,
    vocabulary_modules,
)
from trainer.engine.fused_lora import FusedLora
from trainer.engine.logprobs import action_logprobs, chunk_length
from trainer.engine.lora import AdaptedLayers, LiveAdapter
from trainer.engine.recomputation import Recomputation
from trainer.engine.text_part import attend_by, text_linears, text_part, tower_names
from trainer.engine.unembedding import WholeUnembedding, blocks_of, exact_dtype
from trainer.engine.vision.families import FAMILIES, loader_of
from wire.engine import LoraConfig
from wire.process.hub_weights import require_weights

_ATTENTION = "counted"
_TOKENS = 1024
_HEAD_ROWS = 8192
"""Of a chunk over a whole block; those of a small vocabulary would be longer than passes are."""
_META = torch.device("meta")


def config_of(base: str) -> PreTrainedConfig:
    """Of a preset, a folder or a config.json, or a Hugging Face id. Raises OSError, ValueError or WeightsOutOfReach for
    one that is not there."""
    if base in PRESETS:
        return AutoConfig.for_model(**PRESETS[base])
    place = Path(base)
    require_weights(base)
    folder = place.parent if place.is_file() else base
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config if config.model_type in FAMILIES else config.get_text_config()


@cache
def count_preset(name: str, rank: int) -> BaseCounts:
    """`count_base` of a preset, once a process: it takes seconds."""
    return count_base(name, config_of(name), rank)


def count_base(name: str, config: PreTrainedConfig, rank: int, dtype: torch.dtype = torch.bfloat16) -> BaseCounts:
    """rank: of the adapters that a pass trains. Raises UnsupportedArchitecture as the trainer does, and ValueError for
    layers whose kernels decide what they keep."""
    model, text = _outline(config, dtype), config.get_text_config()
    if linear_mixers(model):
        raise ValueError(f"{name} has layers of linear attention, and what those keep depends on their kernels")
    layers = [[tuple(p.shape) for p in layer.parameters()] for layer in decoder_layers(model)]
    within = {parameter for layer in decoder_layers(model) for parameter in layer.parameters()}
    embedding, head = vocabulary_modules(model)
    divided = {module.weight for module in (embedding, head) if module is not None}
    adapted = set(Adaptable.of(model).chosen(LoraConfig(rank=rank)))
    beside = tuple(f"{name}." for name in tower_names(model))
    tower = [parameter for name, parameter in model.named_parameters() if beside and name.startswith(beside)]
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return BaseCounts(
        name=name,
        architecture=type(model).__name__,
        context_length=text.max_position_embeddings,
        layers=layers,
        vocabulary=[tuple(weight.shape) for weight in divided],
        embedding_gathered=embedding.weight.numel() if embedding is not None else 0,
        unembedding_gathered=head.weight.numel() if head is not None else 0,
        largest_block=max((len(blocks_of(len(w))[0]) * w.shape[1] for w in divided), default=0),
        outside=[tuple(p.shape) for p in model.parameters() if p not in within | divided],
        unembedding=tuple(unembedding_weight(model).shape),
        weight_bytes=dtype.itemsize,
        adapted=[
            Linear(path.rpartition(".")[2], module.out_features, module.in_features)
            for path, module in text_linears(model).items()
            if path.rpartition(".")[2] in adapted
        ],
        heads=text.num_attention_heads,
        key_heads=key_heads,
        attention_width=text.num_attention_heads * head_dim,
        key_values=2 * key_heads * head_dim * text.num_hidden_layers,
        tower=sum(parameter.numel() for parameter in tower),
        activations=_activations(config, rank, dtype),
    )


def _activations(config: PreTrainedConfig, rank: int, dtype: torch.dtype) -> Activations:
    """By passes over one layer and two where all are alike, and over all of them where they are not."""
    text = config.get_text_config()
    depths = (1, 2) if len(set(getattr(text, "layer_types", None) or [None])) == 1 else (text.num_hidden_layers,)
    models = [_counted_model(config, depth, rank, dtype) for depth in depths]
    kept, recomputed = ([model.run(1, recompute=on) for model in models] for on in (False, True))
    scored = models[-1].run(_TOKENS, recompute=False).kept
    return Activations(
        kept=_at_depth([each.kept for each in kept], text.num_hidden_layers) / _TOKENS,
        recomputed=_at_depth([each.kept for each in recomputed], text.num_hidden_layers) / _TOKENS,
        transient=kept[-1].transient / _TOKENS,
        transient_recomputed=recomputed[-1].transient / _TOKENS,
        prediction=(scored - kept[-1].kept) / (_TOKENS - 1),
        head=models[-1].head_bytes(),
    )


def _at_depth(counted: list[int], depth: int) -> float:
    first, last = counted[0], counted[-1]
    return first + (depth - 1) * (last - first) if len(counted) > 1 else last


@dataclass(frozen=True, slots=True)
class _PassBytes:
    """kept: after the forward, for the backward. transient: beside that, at the worst moment of either."""

    kept: int
    transient: int


class _CountedModel:
    """A base of some layers with an adapter, as the engine binds one."""

    def __init__(self, model: PreTrainedModel, rank: int) -> None:
        self._model = model
        lora = LoraConfig(rank=rank)
        self._unembedding = WholeUnembedding(unembedding_weight(model))
        dtype = exact_dtype(model.dtype)
        self._adapter = LiveAdapter(AdaptedLayers(model), lora, Adaptable.of(model).chosen(lora), dtype)
        FusedLora().install(model)
        self._adapter.activate()
        self._weights = torch.zeros(self._adapter.layout.num_parameters, dtype=dtype, device=_META)
        self._adapter.bind(self._weights)
        self._recomputation = Recomputation(model)

    def run(self, num_predictions: int, *, recompute: bool) -> _PassBytes:
        """One forward and backward over `_TOKENS` tokens."""
        ids_T = torch.zeros(_TOKENS, dtype=torch.long, device=_META)
        live = _LiveBytes([*self._held(), ids_T])
        with live:
            with self._recomputation.switched(recompute):
                output = text_part(self._model)(
                    input_ids=ids_T[None], position_ids=ids_T[None], attention_mask=None, use_cache=False
                )
            during_layers = live.peak
            hidden_TD = output.last_hidden_state[0]
            del output
            scored_P = ids_T[:num_predictions]
            logprobs_P, _ = action_logprobs(hidden_TD, scored_P, scored_P, self._unembedding)
            del hidden_TD
            kept, live.peak = live.now, live.now
            logprobs_P.backward(torch.ones_like(logprobs_P))
        return _PassBytes(kept, max(during_layers, live.peak) - kept)

    def head_bytes(self) -> int:
        """What a block of the unembedding and the logits of one chunk take, beside what is kept of them."""
        length = min(_HEAD_ROWS, chunk_length(self._unembedding, _META))
        weight_VD, dtype = self._unembedding.weight_VD, exact_dtype(self._unembedding.dtype)
        elsewhere_PD = torch.zeros(length, weight_VD.shape[1], dtype=dtype, device=_META, requires_grad=True)
        rows_P = torch.zeros(length, dtype=torch.long, device=_META)
        live = _LiveBytes([elsewhere_PD, rows_P, weight_VD])
        with live:
            kept = action_logprobs(elsewhere_PD, rows_P, rows_P, self._unembedding)
        beside = live.peak - live.now
        del kept
        return beside

    def _held(self) -> Iterable[torch.Tensor]:
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        return [
            *self._model.parameters(),
            *self._model.buffers(),
            *gradients,
            self._weights,
            self._adapter.scratch_gradient,
        ]


def _counted_model(config: PreTrainedConfig, depth: int, rank: int, dtype: torch.dtype) -> _CountedModel:
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config()
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return _CountedModel(_outline(shorter, dtype), rank)


def _outline(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    AttentionInterface.register(_ATTENTION, _attention)
    with _META:
        model: Any = loader_of(config).from_config(config, dtype=dtype, trust_remote_code=False)
    attend_by(model, _ATTENTION)
    return model.eval().requires_grad_(False)


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations inside make, from their making to their end; `held` are there already."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        # A storage has one object in Python for as long as it lives.
        self._sizes: dict[int, int] = {id(tensor.untyped_storage()): 0 for tensor in held}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _attention(
    module: torch.nn.Module,
    query_BHTE: torch.Tensor,
    key_BKTE: torch.Tensor,
    value_BKTE: torch.Tensor,
    *_: Any,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    out: Any = _KeepsAsAKernelDoes.apply(query_BHTE, key_BKTE, value_BKTE)
    return out, None


class _KeepsAsAKernelDoes(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query_BHTE: torch.Tensor, key_BKTE: torch.Tensor, value_BKTE: torch.Tensor
    ) -> torch.Tensor:
        B, H, T, _ = query_BHTE.shape
        out_BTHE = query_BHTE.new_empty((B, T, H, value_BKTE.shape[-1]))
        lse_BHT = query_BHTE.new_empty((B, H, T), dtype=torch.float32)
        ctx.save_for_backward(query_BHTE, key_BKTE, value_BKTE, out_BTHE, lse_BHT)
        return out_BTHE

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_BTHE: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        query_BHTE, key_BKTE, value_BKTE, _, _ = ctx.saved_tensors
        return torch.empty_like(query_BHTE), torch.empty_like(key_BKTE), torch.empty_like(value_BKTE)
