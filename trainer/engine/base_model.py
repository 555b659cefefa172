"""The frozen base model: loading it, and scoring packs under whichever session is bound."""

# T packed tokens, P predictions, D hidden size, V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias

import structlog
import torch
from transformers import PreTrainedModel

from trainer.engine.architectures import (
    Adaptable,
    Sharing,
    known_sharing,
    linear_mixers,
    refuse_unsupported,
    unembedding_weight,
)
from trainer.engine.attention import IMPLEMENTATION, UnsupportedArchitecture, register
from trainer.engine.base_memory import free_bytes, outline_of, refuse_too_large
from trainer.engine.bf16_check import choose_bf16
from trainer.engine.fingerprint import fingerprint
from trainer.engine.frozen_linears import FrozenLinears
from trainer.engine.fused_lora import FusedLora
from trainer.engine.gathers import Gathers, WholeWeights
from trainer.engine.kernels import KERNELS, Kernel, choose_kernel, kernel_name
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.logprobs import HeadUpdate, action_logprobs, all_logits
from trainer.engine.lora import AdaptedLayers, LiveAdapter
from trainer.engine.mixers import expand
from trainer.engine.packing import Pack, PassBudget, build_pack
from trainer.engine.picture_check import picture_disagreement
from trainer.engine.products import PRODUCTS, Products, choose_products
from trainer.engine.ranks import Alone, Ranks
from trainer.engine.recomputation import Recomputation, saved_bytes
from trainer.engine.self_check import disagreement, probe
from trainer.engine.session import Session
from trainer.engine.text_part import attend_by, text_config, text_part
from trainer.engine.tower_cost import encoding_bytes, picture_cost
from trainer.engine.unembedding import Unembedding, WholeUnembedding, exact_dtype
from trainer.engine.vision.families import loader_of
from trainer.engine.vision.sight import Sight
from trainer.engine.vision.tower import Tower, tower_of
from wire.datums import Datum
from wire.engine import BaseModelInfo, LoraConfig, Pictures
from wire.errors import InvalidRequest
from wire.plans import BF16_PRODUCTS, FUSED_LORA, PEFT_LORA
from wire.process.collector import paused_collector
from wire.process.product_dtype import PROBE_LENGTH, ProductDtype

log = structlog.get_logger(__name__)

Fingerprint: TypeAlias = Callable[[PreTrainedModel], str]

# Long enough for what is kept once a pass to weigh little, and shorter than any context.
_PROBE_TOKENS = 32
_MAX_ACTIVATION_BYTES_ON_CPU = 8 << 30


class BaseModel:
    """A causal language model of transformers whose own weights never change.

    Takes the model over: its attention is replaced, its parameters are frozen, LoRA layers are put in. Sequences of
    a pack share what they have in common if the architecture is known to allow it and the self-check confirms it when
    it loads; if not, each sequence is a pass of its own. Raises UnsupportedArchitecture where even that differs from
    the model's own logits or gradients.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        gathers: Gathers | None = None,
        fingerprint_of: Fingerprint = fingerprint,
        ranks: Ranks | None = None,
        unembedding: Unembedding | None = None,
        products: ProductDtype = ProductDtype.FLOAT32,
        tower: Tower | None = None,
    ) -> None:
        """gathers: None for a model whose weights this process holds itself. fingerprint_of: for one of which it does
        not, the fingerprint of all of them. ranks: those who hold the others, and use it at the same time.
        unembedding: None for a whole one. products: what the layers are to multiply in on a CPU. tower: of the model,
        None for one that is served as text."""
        refuse_unsupported(model.config)
        register()
        attend_by(model, IMPLEMENTATION)
        self._model = model.eval().requires_grad_(False)
        self.gathers: Gathers = gathers or WholeWeights()
        self._kernel = choose_kernel(model.device)
        self._lora_dtype = exact_dtype(model.dtype)
        self._unembedding: Unembedding = unembedding or WholeUnembedding(unembedding_weight(model))
        self._adaptable = Adaptable.of(model)
        self._layers = AdaptedLayers(model)
        self._adapters: dict[LoraConfig, LiveAdapter] = {}
        self._active: LiveAdapter | None = None
        self._bytes_per_token: dict[tuple[LiveAdapter, bool], float] = {}
        for mixer in linear_mixers(model):
            expand(mixer)
        self._recomputation = Recomputation(model)
        self._products = choose_products(model.device)
        self._frozen_linears = FrozenLinears(model, self._products)
        self._ranks: Ranks = ranks or Alone()
        self.sight: Sight | None = None
        sharing = self._proven(known_sharing(model))
        if tower := self._seeing_alike(tower):
            self.sight = self._proven_sight(Sight(tower), alone=sharing is Sharing.NOTHING)
        if products is ProductDtype.BF16 and model.device.type == "cpu":
            self._products = self._proven_bf16() or self._products
        self._frozen_linears.products = self._products
        self._fused_lora = FusedLora(self._products)
        self._budget = PassBudget(
            max_tokens=0,
            tokens_per_pair=_tokens_per_pair(model),
            shares=not linear_mixers(model),
            alone=sharing is Sharing.NOTHING,
            pictures=self.sight and picture_cost(model, self.sight.rule),
        )
        self.info = replace(
            _describe(model, self._unembedding.num_rows, sharing, self._adaptable, fingerprint_of(model)),
            pictures=self.sight and self.sight.rule.to_json(),
        )

    @property
    def device(self) -> torch.device:
        """Where packs must lie."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of LoRA weights, gradients, moments and logprobs."""
        return self._lora_dtype

    @property
    def name(self) -> str:
        """Where the weights came from, for the adapter's configuration."""
        return self._model.name_or_path or ""

    @property
    def served_dtype(self) -> torch.dtype:
        """Of the frozen weights, and of the adapters that samplers load."""
        return self._model.dtype

    def adapter(self, lora: LoraConfig) -> LiveAdapter:
        """The live adapter of this shape, made on first use; models of one shape share it."""
        shape = replace(lora, init_seed=0)
        if shape not in self._adapters:
            targets = self._adaptable.chosen(lora)
            self._adapters[shape] = LiveAdapter(self._layers, lora, targets, self._lora_dtype)
            self._fused_lora.install(self._model)
            self._active = None
        return self._adapters[shape]

    def lora_targets(self, lora: LoraConfig) -> list[str]:
        """Names of the layers that such an adapter changes; none where this base refuses it."""
        try:
            return self._adaptable.chosen(lora)
        except InvalidRequest:
            return []

    def bind(self, session: Session) -> LiveAdapter:
        """Let the session's weights compute from now on."""
        adapter = self.adapter(session.lora)
        if self._active is not adapter:
            adapter.activate()
            self._active = adapter
        adapter.bind(session.weights)
        return adapter

    @property
    def kernel(self) -> str:
        """Of attention, by its name in `trainer.engine.kernels`."""
        return kernel_name(self._kernel)

    @property
    def head_rows(self) -> int:
        """Of the vocabulary, in a block that the head works on."""
        return self._unembedding.block_rows

    @property
    def products(self) -> str:
        """Of matrices, by their name in `trainer.engine.products`."""
        return self._products.name

    @property
    def product_dtype(self) -> ProductDtype | None:
        """What layers multiply in where a plan does not say else; None on a device that has the base in that dtype."""
        if self.device.type != "cpu":
            return None
        return ProductDtype.BF16 if self._products.name == BF16_PRODUCTS else ProductDtype.FLOAT32

    @contextmanager
    def computing_by(self, kernel: str, lora: str, head_rows: int, products: str) -> Generator[None]:
        """Packs that are made inside are for this kernel; adapted layers have this forward, and they and the head these
        products; the head works on so many rows of the vocabulary at once, unless ranks have divided it. What does not
        run here gives way to the model's own, with a line in the log: the bits may be others then."""
        before = self._kernel, self._products, self._unembedding
        if lora not in (FUSED_LORA, PEFT_LORA):
            log.warning("lora_of_plan_does_not_run", planned=lora, used=FUSED_LORA)
        self._kernel, self._products = self._planned_kernel(kernel), self._planned_products(products)
        self._unembedding = self._unembedding.by(head_rows)
        try:
            with (
                self._fused_lora.switched(lora != PEFT_LORA, self._products),
                self._frozen_linears.switched(self._products),
            ):
                yield
        finally:
            self._kernel, self._products, self._unembedding = before

    def _planned_kernel(self, name: str) -> Kernel:
        planned = KERNELS.get(name)
        if planned is None or not planned.runs_on(self.device):
            log.warning("kernel_of_plan_does_not_run", planned=name, used=self.kernel)
            return self._kernel
        return self._kernel if isinstance(self._kernel, planned) else planned()

    def _planned_products(self, name: str) -> Products:
        planned = PRODUCTS.get(name)
        if planned is None or not planned.run_on(self.device):
            log.warning("products_of_plan_do_not_run", planned=name, used=self.products)
            return self._products
        products = self._products if type(self._products) is planned else planned()
        if products.are_emulated:
            log.warning(
                "products_of_plan_are_emulated", planned=name, why="the processor has neither AVX512-BF16 nor AMX"
            )
        return products

    def budget(
        self,
        max_tokens: int,
        max_shards: int = 1,
        min_shard_tokens: float = 1.0,
        apart_tokens: float = math.inf,
    ) -> PassBudget:
        """What plans must know of this model, and what the engine allows."""
        return replace(
            self._budget,
            max_tokens=max_tokens,
            max_shards=max_shards,
            min_shard_tokens=min_shard_tokens,
            apart_tokens=apart_tokens,
        )

    def pack(self, datums: Sequence[Datum]) -> Pack:
        """One forward pass over datums. Raises InvalidRequest for a picture that cannot be read."""
        return build_pack(datums, self._kernel, self.device, self.sight)

    def seeing(self, pictures: Pictures) -> AbstractContextManager[None]:
        """Packs that are made inside show these pictures."""
        return self.sight.of(pictures) if self.sight is not None else nullcontext()

    def logprobs(self, pack: Pack, *, recompute: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """logprobs_P of the pack's predictions (gradient reaches the bound LoRA weights) and entropies_P, in nats.

        recompute: keep only each layer's input for the backward.
        """
        with self.gathers.forward():
            with self._recomputation.switched(recompute):
                hidden_TD = self._hidden(pack)
            return action_logprobs(
                hidden_TD,
                pack.rows_P,
                pack.targets_P,
                self._unembedding,
                products=self._products,
                share_rows=pack.has_several,
                update=self._head_update(),
            )

    def learning_from(self, datums: Sequence[Datum]) -> AbstractContextManager[None]:
        """Backwards inside are of passes over some of these datums, under the bound session. All ranks have all of
        them, and so agree on whether some pass makes its logits again."""
        again = self._head_update() is not None or any(datum.targets.ndim > 1 for datum in datums)
        return self.gathers.recomputing_head(again)

    def most_likely(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """ids_P of the most likely tokens at the pack's predictions and logprobs_P, without gradient. For short packs:
        makes all of their logits. By float32 products where these are a choice: a sampler with an engine of its own,
        which has no part in the choice, compares its logprobs with these."""
        exact = choose_products(self.device).name
        by = self.computing_by(self.kernel, FUSED_LORA, self.head_rows, exact)
        with torch.no_grad(), by, self.gathers.forward():
            hidden_PD = self._hidden(pack).index_select(0, pack.rows_P)
            logits_PV = all_logits(hidden_PD, self._unembedding, self._head_update(), self._products)
            logprobs_P, ids_P = logits_PV.log_softmax(-1).max(-1)
        return ids_P, logprobs_P

    def base_logprobs(self, pack: Pack) -> torch.Tensor:
        """logprobs_P of the base model itself, without gradient: the bound adapter is off for as long as this takes."""
        assert self._active is not None, "bind a session first"
        with torch.no_grad(), self._layers.switched_off():
            return self.logprobs(pack)[0]

    def measure_activations(self) -> None:
        """Measure, once an adapter and forward of its layers on a short pass, what a pass keeps for its backward: it
        holds for whatever the architecture and PEFT keep."""
        if self._adapted_by not in self._bytes_per_token:
            with self._ranks.agreed():
                short = self.pack([probe(_PROBE_TOKENS + 1, self.info.vocab_size)])
            with self._ranks.agreed():
                kept = saved_bytes(lambda: self.logprobs(short)[0])
            self._bytes_per_token[self._adapted_by] = kept / _PROBE_TOKENS

    def activation_bytes(self, pack: Pack) -> int:
        """What a pass keeps for its backward, unless it recomputes, under the bound session."""
        assert self._adapted_by in self._bytes_per_token, "measure_activations comes first"
        # Linear mixers compute each path by itself, and what they keep outweighs the rest.
        merged = sum(datum.num_tokens for datum in pack.datums)
        kept = round(self._bytes_per_token[self._adapted_by] * (pack.num_tokens if self._budget.shares else merged))
        return kept + (pack.pictures.num_bytes if pack.pictures else 0)

    def room_for_activations(self) -> int:
        """Bytes that a pass may keep, if nobody says how many: half of what is free, and of what pictures leave of it;
        of a CPU's memory, which others use too, no more than 8 GiB."""
        half = max(free_bytes(self.device) - self._bytes_for_pictures(), 0) // 2
        return half if self.device.type == "cuda" else min(half, _MAX_ACTIVATION_BYTES_ON_CPU)

    def _bytes_for_pictures(self) -> int:
        """Of the features that are kept, and of the tower while it makes some."""
        if self.sight is None:
            return 0
        return self.sight.cache.max_bytes + encoding_bytes(self._model, self.sight.rule, self.info.context_length)

    @property
    def _adapted_by(self) -> tuple[LiveAdapter, bool]:
        """The bound adapter, and whether its layers are fused: PEFT's forward keeps more."""
        assert self._active is not None, "bind a session first"
        return self._active, self._fused_lora.is_on

    def _head_update(self) -> HeadUpdate | None:
        return self._active.head_update if self._active is not None else None

    def _hidden(self, pack: Pack) -> torch.Tensor:
        # The backbone, not the language model on top: that one would make logits of every token.
        output = text_part(self._model)(
            **self._tokens(pack),
            attention_mask=None,
            use_cache=False,
            packed_layout=pack.layout,
        )
        return output.last_hidden_state[0]

    def _tokens(self, pack: Pack) -> dict[str, Any]:
        if pack.pictures is None:
            return {"input_ids": pack.input_ids_T[None], "position_ids": pack.position_ids_T[None]}
        embeddings_TD = self._model.get_input_embeddings()(pack.input_ids_T[None])[0]
        return {
            "inputs_embeds": pack.pictures.embedded(embeddings_TD)[None],
            "position_ids": pack.pictures.position_ids,
            **pack.pictures.levels(pack.num_tokens),
        }

    def _proven_bf16(self) -> Products | None:
        pack = self.pack([probe(PROBE_LENGTH, self._unembedding.num_rows)])
        return choose_bf16(self._model, self._frozen_linears, pack, self.logprobs, self.gathers, self._ranks)

    def _proven(self, sharing: Sharing) -> Sharing:
        """The most sharing under which the model agrees with itself, by the kernel it was to have or the dense one. A
        difference on one rank is one on all of them: they must go on to the same kernel."""
        name, difference = type(self._model).__name__, None
        kernels = [self._kernel, DenseKernel()]
        for attempt, kernel in product([Sharing.PREFIXES, Sharing.NOTHING], kernels):
            if attempt is Sharing.PREFIXES is not sharing:
                continue
            self._kernel = kernel
            alone = attempt is Sharing.NOTHING
            mine = disagreement(
                self._model, self._frozen_linears, self.pack, self.logprobs, self.gathers, self._ranks, alone=alone
            )
            difference = next(filter(None, self._ranks.gathered(mine)), None)
            if difference is None:
                return attempt
            log.warning(
                "base_model_disagrees",
                architecture=name,
                kernel=type(kernel).__name__,
                sharing=attempt,
                reason=difference,
            )
        raise UnsupportedArchitecture(f"{name}: {difference}")

    def _seeing_alike(self, tower: Tower | None) -> Tower | None:
        """The tower, unless a rank has none or reads pictures otherwise: each host has files of its own."""
        rules = self._ranks.gathered(tower and tower.rule)
        if tower is None or all(rule == tower.rule for rule in rules):
            return tower
        reason = "the settings of its image processor are not the same on all ranks"
        log.warning("base_takes_text_alone", architecture=type(self._model).__name__, reason=reason)
        return None

    def _proven_sight(self, sight: Sight, *, alone: bool) -> Sight | None:
        """The same, if the model agrees with itself on pictures; if not, it takes text alone."""
        self.sight = sight
        mine = picture_disagreement(
            self._model, self._frozen_linears, sight, self.pack, self.logprobs, self.gathers, self._ranks, alone=alone
        )
        difference = next(filter(None, self._ranks.gathered(mine)), None)
        if difference is None:
            return sight
        log.warning("base_takes_text_alone", architecture=type(self._model).__name__, reason=difference)
        return None


def usual_dtype(device: str) -> torch.dtype:
    """Of a base, on this device."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def load_base_model(
    name_or_path: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    products: ProductDtype = ProductDtype.FLOAT32,
) -> BaseModel:
    """Load safetensors weights from a folder or the hub; code that comes with them is never run.

    dtype: float32 on the CPU and bfloat16 elsewhere, if not given. Raises OSError for weights that are not there,
    UnsupportedArchitecture for those that would be computed wrongly, BaseTooLarge for those that do not fit.
    """
    dtype = dtype or usual_dtype(device)
    outline = outline_of(name_or_path, dtype, revision)
    refuse_too_large(outline, torch.device(device))
    with paused_collector():
        model = loader_of(outline.config).from_pretrained(
            name_or_path,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
        )
        torch.nn.Module.to(model, torch.device(device))
        return BaseModel(model, products=products, tower=tower_of(model, name_or_path, revision))


def _describe(
    model: PreTrainedModel, vocab_size: int, sharing: Sharing, adaptable: Adaptable, fingerprint: str
) -> BaseModelInfo:
    return BaseModelInfo(
        vocab_size=vocab_size,
        context_length=int(text_config(model).max_position_embeddings),
        architecture=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        fingerprint=fingerprint,
        sharing=sharing.value,
        adapted_parts=adaptable.whole(model),
        lora_layers=adaptable.layers,
    )


def _tokens_per_pair(model: PreTrainedModel) -> float:
    """Multiplications of attention between two tokens, next to those of one token by the layers' weights."""
    config = text_config(model)
    heads = int(config.num_attention_heads) * int(getattr(config, "head_dim", None) or 0) or int(config.hidden_size)
    embeddings = sum(p.numel() for p in model.get_input_embeddings().parameters())
    weights = sum(p.numel() for p in text_part(model).parameters()) - embeddings
    return 2 * heads * int(config.num_hidden_layers) / weights
