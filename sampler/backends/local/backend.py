"""The local backend: the port's front, on the event loop. Steps happen in the engine's thread, rendering in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sampler.admission.fair_gate import FairGate
from sampler.admission.limits import check_scoring, max_new_tokens
from sampler.admission.prompt_limits import PromptLimits
from sampler.backends.base import NO_PICTURES, SamplerInfo
from sampler.backends.local.adapter_files import Adapter, read_adapter
from sampler.backends.local.attention import IMPLEMENTATION
from sampler.backends.local.base_model import cache_shape, load_base, steps_per_s, use_slot_attention
from sampler.backends.local.bf16_products import choose_products
from sampler.backends.local.constraints import Constraints, Form
from sampler.backends.local.deep_threads import deep_threads
from sampler.backends.local.engine import Engine
from sampler.backends.local.event_stream import EventStream, post
from sampler.backends.local.kv_cache import SlotCache
from sampler.backends.local.packed_linears import NUM_KERNELS, pack_linears
from sampler.backends.local.packed_step import PackedModel
from sampler.backends.local.probes import Probes
from sampler.backends.local.scheduler import Scheduler
from sampler.backends.local.scoring import ScoringTask
from sampler.backends.local.sequence import Sequence
from sampler.backends.local.vision import Shown, vision_of
from sampler.chat.text import ChatText, WithChatText
from sampler.draws import Draws
from sampler.vocabulary import Vocabulary
from wire.errors import Conflict, NotFound
from wire.loaded import Loaded, version_of
from wire.media_items import media_of
from wire.picture_rule import PictureRule
from wire.process.onednn import keep_few_kernels
from wire.process.product_dtype import ProductDtype
from wire.process.threads import threads_for
from wire.sampling import Constraint, GenerateEvent, GenerateRequest, PromptScores, ScoreRequest

_NUM_BUILDERS = 2
_NUM_PROBED = 16
_NUM_SCORED = 2
"""Prompts that the engine has to score at a time: one, and the next."""
_NUM_SEERS = 1
"""Threads that compute features of pictures, beside the engine's."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How much to hold, and where randomness comes from.

    kv_cache_tokens bounds the memory: rows times the longest row. context_length is at most that and the model's own.
    num_threads is torch's, None for as many as the model is worth. seed makes requests without a seed of their own
    reproducible; None leaves them to the operating system. tensor_parallel is 1: all of the base is in this process.
    products: what its linear layers are to multiply in. max_feature_bytes: what a vision tower made of pictures and is
    kept.
    """

    seed: int | None = None
    dtype: str = "float32"
    kv_cache_tokens: int = 32_768
    context_length: int | None = None
    max_running: int = 128
    max_step_tokens: int = 2_048
    num_threads: int | None = None
    tensor_parallel: int = 1
    products: ProductDtype = ProductDtype.FLOAT32
    max_feature_bytes: int = 512 * 1024**2


class LocalBackend(WithChatText):
    """A SamplerBackend in this process. Raises UnsupportedBase for a base that it would compute wrongly, ValueError for
    one that is to be split over several."""

    def __init__(self, base: str, settings: LocalSettings | None = None) -> None:
        settings = settings or LocalSettings()
        if settings.tensor_parallel != 1:
            raise ValueError(
                f"the local sampler computes in one process: --tensor-parallel {settings.tensor_parallel} is for "
                "--backend vllm"
            )
        dtype: torch.dtype = getattr(torch, settings.dtype)
        keep_few_kernels(NUM_KERNELS)
        model = load_base(base, dtype)
        torch.set_num_threads(settings.num_threads or threads_for(model.num_parameters()))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
        self._vocabulary = Vocabulary(tokenizer)
        self._building = FairGate(_NUM_BUILDERS)
        self._builders = deep_threads(_NUM_BUILDERS, "constraints")
        self._scoring = FairGate(_NUM_SCORED)
        self._seeing = FairGate(_NUM_SEERS)
        self._seers = ThreadPoolExecutor(_NUM_SEERS, thread_name_prefix="pictures")
        self._draws = Draws(settings.seed)
        self._adapters: dict[str, Adapter] = {}
        cache = SlotCache(cache_shape(model.config.get_text_config(), dtype, settings.kv_cache_tokens))
        self._vision = vision_of(model, base, settings.max_feature_bytes)
        packed = PackedModel(model, cache, self._vision)
        self._linears = packed.hooks.linears
        probes = Probes(model, self._vision)
        num_parameters = model.num_parameters()
        use_slot_attention(model)
        sees = False
        if settings.products is ProductDtype.BF16:  # whose rounding is no excuse for anything else
            sees = probes.require_exact(packed, cache)
        products = choose_products(model, settings.products, packed.logits)
        pack_linears(model)
        if products is ProductDtype.FLOAT32:
            sees = probes.require_exact(packed, cache)
        self._info = _info(model, tokenizer, settings, self._vision.rule if self._vision and sees else None)
        limits = PromptLimits(self._info.context_length, self._vocabulary.longest)
        self._chat_text = ChatText(base, tokenizer, limits, self._info.eos_ids, self._info.pictures)
        self._constraints = Constraints(tokenizer, self._vocabulary, self._info, self._chat_text.call_form)
        self._details = _details(model, packed, self._info, num_parameters, products)
        scheduler = Scheduler(cache, max_running=settings.max_running, max_step_tokens=settings.max_step_tokens)
        self._engine = Engine(packed, scheduler, post)
        self._engine.start()

    @property
    def info(self) -> SamplerInfo:
        return self._info

    @property
    def details(self) -> Loaded:
        """See SamplerBackend."""
        return self._details

    def load_adapter(self, name: str, path: Path | None) -> None:
        """See SamplerBackend. The files are read into memory, and not needed afterwards."""
        adapter = read_adapter(name, path, self._linears)
        if self._adapters.setdefault(name, adapter) is not adapter:
            raise Conflict(f"adapter {name} is loaded already; new weights need a new name")

    def unload_adapter(self, name: str) -> None:
        """See SamplerBackend. The weights go with the last request that holds them."""
        self._adapters.pop(name, None)

    def loaded(self) -> set[str]:
        """See SamplerBackend."""
        return set(self._adapters)

    def trouble(self) -> str | None:
        """See SamplerBackend."""
        return self._engine.trouble()

    def final_trouble(self) -> str | None:
        """See SamplerBackend. The engine survives a step that fails."""
        return None

    async def generate(
        self, request: GenerateRequest, pictures: Mapping[str, bytes] = NO_PICTURES
    ) -> AsyncGenerator[GenerateEvent, None]:
        """See SamplerBackend."""
        adapter = self._adapter(request.adapter)
        limit = max_new_tokens(request, self._info)
        shown = await self._shown(request, pictures)
        constraint = request.params.constraint
        form = await self._form(request, constraint) if constraint else None
        sequence = self._new_sequence(request, adapter, limit, form, shown)
        self._engine.submit(sequence)
        try:
            async for event in sequence.stream.events():
                yield event
        finally:
            self._engine.cancel(sequence)

    async def score(self, request: ScoreRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> PromptScores:
        """See SamplerBackend."""
        adapter = self._adapter(request.adapter)
        check_scoring(request, self._info)
        shown = await self._shown(request, pictures)
        async with self._scoring.place(request) as place:
            place.serve(len(request.prompt_token_ids))
            task = ScoringTask(request, adapter, shown)
            self._engine.submit_scoring(task)
            try:
                return await task.wait()
            finally:
                task.cancelled = True

    async def close(self) -> None:
        """See SamplerBackend."""
        await asyncio.to_thread(self._engine.close)
        self._builders.shutdown(wait=False, cancel_futures=True)
        self._seers.shutdown(wait=False, cancel_futures=True)
        self._chat_text.close()

    async def _form(self, request: GenerateRequest, constraint: Constraint) -> Form:
        """llguidance lets go of the interpreter while it builds; so few at once leave the engine its cores."""
        async with self._building.place(request):
            return await asyncio.get_running_loop().run_in_executor(self._builders, self._constraints.start, constraint)

    async def _shown(self, request: GenerateRequest | ScoreRequest, pictures: Mapping[str, bytes]) -> Shown | None:
        """What the prompt shows, of a base that sees. Features of its pictures are computed here, beside the engine's
        steps; a step that finds them gone again computes them itself."""
        if self._vision is None:
            return None
        media = media_of(request.prompt_media)
        for item in media:
            if not self._vision.keeps(item):
                async with self._seeing.place(request) as place:
                    png = pictures[item.name]
                    await asyncio.get_running_loop().run_in_executor(self._seers, self._vision.features, item, png)
                    place.serve(item.num_tokens)
        return self._vision.shown(request.prompt_token_ids, media, pictures)

    def _new_sequence(
        self, request: GenerateRequest, adapter: Adapter, limit: int, form: Form | None, shown: Shown | None
    ) -> Sequence:
        return Sequence(
            request,
            adapter,
            draws=self._draws.stream(request.params.seed, request.prompt_token_ids, request.prompt_media),
            vocabulary=self._vocabulary,
            eos_ids=frozenset(self._info.eos_ids),
            max_new_tokens=limit,
            stream=EventStream(self._engine.wake),
            form=form,
            shown=shown,
        )

    def _adapter(self, name: str) -> Adapter:
        adapter = self._adapters.get(name)
        if adapter is None:
            raise NotFound(f"adapter {name} is not loaded on this sampler")
        return adapter


def _details(
    model: PreTrainedModel, packed: PackedModel, info: SamplerInfo, num_parameters: int, products: ProductDtype
) -> Loaded:
    """The rate is that of a short prompt, which is what a step costs that takes one token of each answer."""
    rate = steps_per_s(lambda: packed.logits(range(_NUM_PROBED))) * _NUM_PROBED
    return Loaded(
        version=version_of("headway"),
        architecture=type(model).__name__,
        num_parameters=num_parameters,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        products=products if model.dtype == torch.float32 else None,
        kernel=IMPLEMENTATION.removeprefix("headway_"),
        threads=torch.get_num_threads(),
        context_length=info.context_length,
        pictures=info.pictures.to_json() if info.pictures else None,
        tokens_per_s=rate,
        tokens_per_s_of=_NUM_PROBED,
        tokens_per_s_by="measured on a short pass",
    )


def _info(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: LocalSettings, rule: PictureRule | None
) -> SamplerInfo:
    config = model.config.get_text_config()
    lengths = [settings.kv_cache_tokens, config.max_position_embeddings, settings.context_length]
    configured: Any = model.generation_config.eos_token_id if model.generation_config else None
    eos_ids = configured if isinstance(configured, list) else [configured]
    own_eos_id: Any = tokenizer.eos_token_id
    known = {int(eos_id) for eos_id in (*eos_ids, own_eos_id) if eos_id is not None}
    return SamplerInfo(
        vocab_size=config.vocab_size,
        context_length=min(length for length in lengths if length is not None),
        eos_ids=tuple(sorted(known)),
        constrains=True,
        pictures=rule,
    )
