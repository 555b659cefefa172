"""The vLLM backend: the port's front. Adapters by name here, in the server, and as files, all three in step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sampler.admission.fair_gate import FairGate
from sampler.admission.limits import check_scoring, max_new_tokens
from sampler.admission.prompt_limits import PromptLimits
from sampler.backends.base import NO_PICTURES, AnswerReader, SamplerInfo
from sampler.backends.vllm.adapter_check import check_adapter, is_on_head
from sampler.backends.vllm.adapter_folders import AdapterFolders
from sampler.backends.vllm.answer import Answer, vllm_params
from sampler.backends.vllm.attached import AttachedServer
from sampler.backends.vllm.base_facts import architecture_of, blindness, chat_format_of, info_of, ranks_of, rule_of
from sampler.backends.vllm.base_tensors import BaseTensors, local_folder
from sampler.backends.vllm.canary_check import CanaryCheck, Question, canary_pictures
from sampler.backends.vllm.client import Chunk, VllmClient
from sampler.backends.vllm.command import served_num_seqs, served_picture_cache, served_rank
from sampler.backends.vllm.media import HandedOver, PicturesLost, features
from sampler.backends.vllm.parsers import ChatFormat, Parsers, choose_parsers, divide
from sampler.backends.vllm.reading import VllmReading
from sampler.backends.vllm.scoring import PromptScoring
from sampler.backends.vllm.server import OwnServer
from sampler.backends.vllm.settings import VllmSettings
from sampler.backends.vllm.structured import StructuredOutputs, reasoning_gate
from sampler.chat.text import ChatText, WithChatText
from sampler.draws import Draws
from sampler.pictures.expanding import pictures_of
from sampler.vocabulary import Vocabulary
from wire.canary import Canary
from wire.errors import Conflict, HeadwayError, InvalidRequest, NotFound, Unavailable
from wire.loaded import Loaded, version_of
from wire.picture_rule import PictureRule
from wire.process.threads import threads_for
from wire.sampling import (
    Constraint,
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    ParsedMessage,
    ParseOptions,
    PromptScores,
    RenderRequest,
    ScoreRequest,
    TokenIds,
)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Loaded:
    """An adapter in the server, its files, and how many requests use it."""

    folder: Path
    is_on_head: bool = False
    num_requests: int = 0
    leaving: bool = False

    @property
    def served_as(self) -> str:
        """Its name in vLLM, which no other load ever had."""
        return self.folder.name


class VllmBackend(WithChatText):
    """A SamplerBackend in front of one vLLM server. While that is away, nothing is loaded; whoever holds the list of
    adapters loads them again."""

    def __init__(self, base: str, settings: VllmSettings | None = None) -> None:
        self._settings = settings or VllmSettings()
        folder = local_folder(base)
        rule = rule_of(folder)
        self._ranks = ranks_of(self._settings, folder)
        self._tensors = BaseTensors.read(folder)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self._vocabulary = Vocabulary(tokenizer)
        max_num_seqs = served_num_seqs(self._settings)
        self._gate = FairGate(max_num_seqs, reserve=max_num_seqs // 8)
        self._draws = Draws(self._settings.seed)
        self._lock = threading.Lock()
        self._adapters: dict[str, _Loaded] = {}
        self._num_losses = 0
        self._client = VllmClient()
        chat = chat_format_of(folder, tokenizer)
        self._architecture = architecture_of(folder)
        threads = threads_for(self._tensors.num_parameters)
        self._num_threads = self._settings.num_threads or max(1, threads // self._ranks)
        self._model = ""
        self._pictures = self._handed_over(rule, tokenizer)
        self._server = self._connect(folder, chat, with_pictures=rule is not None)
        self._server.start()
        models = self._client.models(self._server.url)
        self._model = models[0]["id"]
        self._blind = blindness(rule, self._server.said().get("device"))
        self._info = info_of(folder, tokenizer, models, None if self._blind else rule)
        limits = PromptLimits(self._info.context_length, self._vocabulary.longest)
        self._chat_text = ChatText(str(folder), tokenizer, limits, self._info.eos_ids, self._info.pictures)
        named = self._settings.tool_call_parser, self._settings.reasoning_parser
        division = divide(*named, chat, self._chat_text.calls)
        several = division.form is None or division.form.several
        self._structured = StructuredOutputs(self._post, several=several)
        eos_ids = frozenset(self._info.eos_ids)
        self._reading = VllmReading(self._chat_text, self._vocabulary, eos_ids, division, self._post)
        self._folders = AdapterFolders(self._settings.adapter_dir, self._tensors)
        self._leaving = ThreadPoolExecutor(1, thread_name_prefix="vllm-unload")
        self._scoring = PromptScoring(self._client, lambda: self._server.url, self._folders, self._tensors.any_linear())
        self._canaries = CanaryCheck(self._logprob_of, sees=self._info.pictures is not None)

    @property
    def info(self) -> SamplerInfo:
        return self._info

    @property
    def details(self) -> Loaded:
        """See SamplerBackend: what vLLM says of itself."""
        said = self._server.said()
        engine = self._client.version(self._server.url)
        return Loaded(
            version=version_of("headway"),
            architecture=self._architecture,
            num_parameters=self._tensors.num_parameters,
            dtype=said.get("dtype"),
            device=said.get("device"),
            kernel=said.get("kernel"),
            threads=self._num_threads if said.get("device") == "cpu" else None,
            context_length=self._info.context_length,
            max_lora_rank=served_rank(self._settings.max_lora_rank),
            pictures=self._info.pictures.to_json() if self._info.pictures else None,
            engine=", ".join(filter(None, (f"vLLM {engine}", self._split(), said.get("cache")))),
        )

    def load_adapter(self, name: str, path: Path | None) -> None:
        """See SamplerBackend; and Unavailable while the server is away, which says nothing about the adapter."""
        if name in self._adapters:
            raise Conflict(f"adapter {name} is loaded already; new weights need a new name")
        started, num_losses = time.monotonic(), self._num_losses
        if not self._server.ready:
            raise Unavailable(self._server.trouble() or "vLLM is being started again")
        if path is not None:
            check_adapter(name, path, self._tensors, served_rank(self._settings.max_lora_rank))
        canary = Canary.read(path) if path is not None else None
        adapter = _Loaded(self._folders.take(name, path), path is not None and is_on_head(path))
        checked = time.monotonic()
        try:
            self._client.load(self._server.url, adapter.served_as, str(adapter.folder))
            loaded = time.monotonic()
            self._canaries.check(adapter.served_as, canary)
            self._add(name, adapter, num_losses)
        except BaseException:
            self._retire(adapter)
            raise
        seconds = {"check_s": checked - started, "load_s": loaded - checked, "canary_s": time.monotonic() - loaded}
        log.info("adapter_in_vllm", adapter=name, **{what: round(took, 4) for what, took in seconds.items()})

    def unload_adapter(self, name: str) -> None:
        """See SamplerBackend. The server forgets it after the last request that runs under it."""
        with self._lock:
            adapter = self._adapters.pop(name, None)
            if adapter is None:
                return
            adapter.leaving = True
            unused = adapter.num_requests == 0
        if unused:
            self._retire(adapter)

    def loaded(self) -> set[str]:
        """See SamplerBackend."""
        with self._lock:
            return set(self._adapters)

    def trouble(self) -> str | None:
        """See SamplerBackend."""
        return self._server.trouble()

    def final_trouble(self) -> str | None:
        """See SamplerBackend."""
        return self._server.final_trouble()

    async def render(self, request: RenderRequest) -> TokenIds:
        """See SamplerBackend."""
        self._refuse(pictures_of(request.messages))
        return await super().render(request)

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """See SamplerBackend; and Unavailable while the server is away."""
        return await self._reading.derender(request)

    def reader(self, request: GenerateRequest, reading: ParseOptions) -> AnswerReader:
        """See SamplerBackend."""
        return self._reading.reader(request, reading)

    async def generate(
        self, request: GenerateRequest, pictures: Mapping[str, bytes] = NO_PICTURES
    ) -> AsyncGenerator[GenerateEvent, None]:
        """See SamplerBackend."""
        self._refuse(request.prompt_media)
        async with AsyncExitStack() as stack:
            served_as = stack.enter_context(self._in_use(request.adapter)).served_as
            params, prompt = request.params, request.prompt_token_ids
            limit = max_new_tokens(request, self._info)
            stop_ids = frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else self._info.eos_ids)
            answer = Answer(request, self._vocabulary, limit=limit, stop_ids=stop_ids)
            sampling = vllm_params(params, limit, stop_ids, self._seed(request))
            more: dict[str, Any] = {}
            if params.constraint is not None:
                sampling["structured_outputs"] = await self._structured.of(params.constraint)
                more = reasoning_gate(params.constraint)
            place = await stack.enter_async_context(self._gate.place(request))
            place.serve(len(prompt))
            more |= {"priority": place.num_before} if self._settings.url is None else {}
            whole = request.whole and not params.stop  # an answer that ends at a stop string has to be watched
            more |= features(request.prompt_media)

            def ask() -> Awaitable[tuple[Chunk | None, AsyncGenerator[Chunk]]]:
                return _begun(self._client.generate(self._server.url, served_as, prompt, sampling, whole=whole, **more))

            async with self._blaming(params.constraint):
                chunk, chunks = await self._pictures.asked(request.prompt_media, pictures, ask)
                await stack.enter_async_context(aclosing(chunks))
                while chunk is not None:
                    event = answer.take(chunk)
                    place.serve(len(event.tokens))
                    yield event
                    if event.finish_reason is not None:
                        return
                    chunk = await anext(chunks, None)
            raise Unavailable("vLLM ended the answer early; try again")

    async def score(self, request: ScoreRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> PromptScores:
        """See SamplerBackend. Of a server of `url`, nobody knows which vLLM it is, and some end over this."""
        self._refuse(request.prompt_media)
        with self._in_use(request.adapter) as adapter:
            check_scoring(request, self._info)
            if self._settings.url is not None:
                raise InvalidRequest("prompt logprobs are not asked of a vLLM that this sampler only attached to")
            async with self._gate.place(request) as place:
                place.serve(len(request.prompt_token_ids))

                def ask() -> Awaitable[PromptScores]:
                    return self._scoring.score(
                        request, adapter.served_as, is_on_head=adapter.is_on_head, priority=place.num_before
                    )

                return await self._pictures.asked(request.prompt_media, pictures, ask)

    async def close(self) -> None:
        """See SamplerBackend."""
        await asyncio.to_thread(self._server.stop)
        self._leaving.shutdown()
        self._canaries.close()
        self._pictures.close()
        self._chat_text.close()
        self._client.close()
        self._folders.close()

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._client.ask(self._server.url + route, body)

    def _split(self) -> str:
        return f"{self._ranks} ranks" if self._ranks > 1 else ""

    def _parsers(self, chat: ChatFormat) -> Parsers:
        parsers = choose_parsers(self._settings.tool_call_parser, self._settings.reasoning_parser, chat)
        log.info("parsers", tool_call=parsers.tool_call, reasoning=parsers.reasoning)
        return parsers

    def _refuse(self, pictures: Sequence[object]) -> None:
        """Of a base that would see them wrongly here."""
        if self._blind and pictures:
            raise InvalidRequest(self._blind)

    def _handed_over(self, rule: PictureRule | None, tokenizer: PreTrainedTokenizerBase) -> HandedOver:
        template_id: Any = tokenizer.convert_tokens_to_ids(rule.template_text) if rule else 0

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            return self._client.generate_now(self._server.url, {"model": self._model, **body})

        return HandedOver(rule, template_id, served_picture_cache(self._settings), ask)

    def _logprob_of(self, adapter: str, question: Question) -> float:
        def ask() -> float:
            more = features(question.media)
            return self._client.logprob_of(self._server.url, adapter, question.prompt, question.token_id, **more)

        return self._pictures.asked_now(question.media, canary_pictures(), ask)

    def _connect(self, folder: Path, chat: ChatFormat, *, with_pictures: bool) -> OwnServer | AttachedServer:
        if url := self._settings.url:
            return AttachedServer(url, self._client, self._served, self._forget_all, self._settings.stalled_s)
        parsers = self._parsers(chat)
        return OwnServer(
            folder,
            self._num_threads,
            self._settings,
            parsers,
            self._client,
            self._forget_all,
            has_vision=self._tensors.has_vision,
            with_pictures=with_pictures,
        )

    @asynccontextmanager
    async def _blaming(self, constraint: Constraint | None) -> AsyncGenerator[None]:
        """What is wrong with a constraint is the client's to change, also where vLLM stumbles over it, and lives on."""
        try:
            yield
        except HeadwayError as error:
            if constraint is None or not await self._is_refusal(error):
                raise
            raise InvalidRequest(
                f"the sampler cannot keep to this constraint: {error.message}", param="constraint"
            ) from error

    async def _is_refusal(self, error: HeadwayError) -> bool:
        stumbled = type(error) in (HeadwayError, PicturesLost)
        is_healthy = stumbled and await asyncio.to_thread(self._client.is_healthy, self._server.url)
        return isinstance(error, InvalidRequest) or is_healthy

    def _served(self) -> set[str]:
        with self._lock:
            return {adapter.served_as for adapter in self._adapters.values()}

    def _retire(self, adapter: _Loaded) -> None:
        """Unload it in the server, then delete the files. A server that is down holds no adapters."""
        with suppress(Unavailable):
            self._client.unload(self._server.url, adapter.served_as)
        self._folders.remove(adapter.folder)

    def _add(self, name: str, adapter: _Loaded, num_losses: int) -> None:
        with self._lock:
            if self._num_losses != num_losses:
                raise Unavailable("vLLM died meanwhile")
            if self._adapters.setdefault(name, adapter) is not adapter:
                raise Conflict(f"adapter {name} is loaded already; new weights need a new name")

    def _forget_all(self) -> None:
        """The server is gone, and with it whoever might read the files."""
        with self._lock:
            lost, self._adapters = self._adapters, {}
            self._num_losses += 1
        self._pictures.forget_all()
        for adapter in lost.values():
            self._folders.remove(adapter.folder)

    @contextmanager
    def _in_use(self, name: str) -> Generator[_Loaded]:
        """The adapter, which stays loaded for the block."""
        with self._lock:
            adapter = self._adapters.get(name)
            if adapter is None:
                raise NotFound(f"adapter {name} is not loaded on this sampler")
            adapter.num_requests += 1
        try:
            yield adapter
        finally:
            with self._lock:
                adapter.num_requests -= 1
                unused = adapter.leaving and adapter.num_requests == 0
            if unused:
                self._leaving.submit(self._retire, adapter)

    def _seed(self, request: GenerateRequest) -> int | None:
        """The request's own; else, where the backend has one, a number that repeats from run to run."""
        if request.params.seed is not None or self._settings.seed is None:
            return request.params.seed
        return self._draws.stream(None, request.prompt_token_ids, request.prompt_media).getrandbits(63)


async def _begun(chunks: AsyncGenerator[Chunk]) -> tuple[Chunk | None, AsyncGenerator[Chunk]]:
    """The first one, and where the others come from."""
    return await anext(chunks, None), chunks
