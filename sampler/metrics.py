"""What a sampler counts: its adapters, and the tokens that it sampled. vLLM has metrics of its own beside these."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from wire.errors import CorruptCheckpoint
from wire.loaded import LABELS, Loaded

_CALL_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600)


class SamplerMetrics:
    """Instruments on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._info = Gauge(
            "headway_sampler_info",
            "1; what this sampler has loaded",
            ["base", "backend", *LABELS],
            registry=self.registry,
        )
        self._expected = Gauge(
            "headway_sampler_expected_tokens_per_second",
            "Sampled with its places full, as of a short pass when it started; 0: not measured",
            registry=self.registry,
        )
        self._adapters = Gauge("headway_sampler_adapters", "Adapters that are loaded", registry=self.registry)
        self._loads = Counter(
            "headway_sampler_adapter_loads",
            "Attempts to load an adapter: loaded, refused (it is not what was saved; also by the canary), or failed",
            ["outcome"],
            registry=self.registry,
        )
        self._load_seconds = Histogram(
            "headway_sampler_adapter_load_seconds",
            "From an adapter's files to its first token, canary included",
            registry=self.registry,
        )
        self._running = Gauge("headway_sampler_running", "Sequences being sampled", registry=self.registry)
        self._calls = Histogram(
            "headway_sampler_call_seconds",
            "Calls of the gateway, to the last byte",
            ["call", "status"],
            buckets=_CALL_S,
            registry=self.registry,
        )
        tokens = Counter(
            "headway_sampler_tokens", "Prompt tokens taken, and tokens sampled", ["direction"], registry=self.registry
        )
        self._tokens_in, self._tokens_out = tokens.labels("prompt"), tokens.labels("sampled")

    def loaded(self, base: str, backend: str, loaded: Loaded) -> None:
        """What this process has loaded."""
        self._info.labels(base, backend, *loaded.labels()).set(1)
        self._expected.set(loaded.tokens_per_s or 0)

    def show_adapters(self, count: Callable[[], int]) -> None:
        """Where the number of loaded adapters comes from."""
        self._adapters.set_function(count)

    def show_process(self) -> None:
        """Memory, processor time and files of this process."""
        ProcessCollector(registry=self.registry)

    @contextmanager
    def loading(self) -> Generator[None]:
        """An adapter is loaded in the block."""
        started = time.perf_counter()
        try:
            yield
        except CorruptCheckpoint:
            self._loads.labels("refused").inc()
            raise
        except Exception:
            self._loads.labels("failed").inc()
            raise
        self._loads.labels("loaded").inc()
        self._load_seconds.observe(time.perf_counter() - started)

    @contextmanager
    def sampling(self, num_prompt_tokens: int) -> Generator[None]:
        """A sequence is sampled in the block."""
        self._tokens_in.inc(num_prompt_tokens)
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()

    def scored(self, num_prompt_tokens: int) -> None:
        """A prompt whose tokens' logprobs were computed."""
        self._tokens_in.inc(num_prompt_tokens)

    def sampled(self, num_tokens: int) -> None:
        """Tokens that are on their way to the gateway."""
        self._tokens_out.inc(num_tokens)

    def called(self, call: str, status: int, seconds: float) -> None:
        """A call ended."""
        self._calls.labels(call, str(status)).observe(seconds)

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
