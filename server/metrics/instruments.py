"""What a server process counts while it works. Labels are bounded: routes are templates, methods and kinds are lists,
teams are made by operators."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.metrics.traffic import TrafficWatch

_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BLOB_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class ServerMetrics:
    """Instruments on a registry. With several worker processes prometheus_client keeps their values in files that any
    of them can add up (`server.metrics.workers`); a gauge is the sum over those that live."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.traffic = TrafficWatch(self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        histogram = partial(Histogram, registry=self.registry)
        self._requests = histogram(
            "headway_http_request_seconds",
            "From a request's headers to the last byte of its answer",
            ["method", "route", "status"],
            buckets=_CALL_S,
        )
        self._in_flight = gauge("headway_http_requests_in_flight", "Requests being answered")
        self._running = gauge("headway_gateway_running", "Chats and completions on a sampler", ["team"])
        self._waiting = gauge("headway_gateway_waiting", "Those that wait for their turn", ["team"])
        self._refused = counter("headway_gateway_refused", "Chats and completions turned away with 429", ["team"])
        tokens = counter(
            "headway_gateway_tokens",
            "Prompt tokens sent to samplers and tokens that they sampled; a retry counts again",
            ["direction"],
        )
        self._tokens_in, self._tokens_out = tokens.labels("prompt"), tokens.labels("sampled")
        self._attempts_lost = counter(
            "headway_placement_attempts_lost", "What runners held when they were lost", ["kind"]
        )
        self._retries = counter("headway_gateway_retries", "Requests that were begun anew on another sampler")
        self._lost = counter("headway_gateway_samplers_lost", "Times that a sampler did not answer")
        recorded = counter(
            "headway_gateway_recorded", "Completions of traces that were recorded, or could not be", ["outcome"]
        )
        self._recorded, self._unrecorded = recorded.labels("recorded"), recorded.labels("lost")
        lookups = counter(
            "headway_gateway_lookups",
            "Questions to the database about keys and heads: asked, or answered along with an equal one",
            ["outcome"],
        )
        self._asked, self._shared = lookups.labels("asked"), lookups.labels("shared")
        self._sampler_calls = histogram(
            "headway_gateway_sampler_seconds",
            "Calls to samplers, to the last byte",
            ["call", "outcome"],
            buckets=_CALL_S,
        )
        self._operations = histogram(
            "headway_operation_seconds",
            "Training calls, from a body that was read to the answer, as callers wait for it",
            ["kind", "outcome"],
            buckets=_CALL_S,
        )
        self._connections = gauge(
            "headway_database_connections",
            "Connections of the pools, and who waits for one; a process notes them every few seconds",
            ["pool", "state"],
        )
        self._blobs = histogram(
            "headway_blob_seconds",
            "Large requests and answers written to disk or read",
            ["direction", "outcome"],
            buckets=_BLOB_S,
        )
        self._blob_bytes = counter("headway_blob_bytes", "Bytes of those", ["direction"])
        self._pictures = counter(
            "headway_pictures",
            "Pictures of requests: decoded, known from an earlier request, or refused",
            ["outcome"],
        )
        self._decoding = histogram(
            "headway_picture_decode_seconds",
            "Pictures decoded, as requests wait for it",
            ["outcome"],
            buckets=_BLOB_S,
        )
        self._tunnels = gauge("headway_tunnels_open", "Tunnels of clients to environments, those that wait included")
        carried = counter("headway_tunnel_bytes", "Bytes that they carried", ["direction"])
        self._tunnel_bytes_in, self._tunnel_bytes_out = carried.labels("to_environment"), carried.labels("to_client")

    def request_began(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Its answer went out, or nobody was there to take it."""
        self._in_flight.dec()
        self._requests.labels(method, route, str(status)).observe(seconds)

    def tunnel_opened(self) -> None:
        """A client opened a tunnel."""
        self._tunnels.inc()

    def tunnel_closed(self) -> None:
        """It has ended."""
        self._tunnels.dec()

    def tunnel_carried(self, num_bytes: int, *, to_client: bool) -> None:
        """So many bytes went through one."""
        (self._tunnel_bytes_out if to_client else self._tunnel_bytes_in).inc(num_bytes)

    def team_load(self, team_id: UUID, running: int, waiting: int) -> None:
        """What the gateway does for a team at this moment."""
        team = str(team_id)
        self._running.labels(team).set(running)
        self._waiting.labels(team).set(waiting)

    def refused(self, team_id: UUID) -> None:
        """A request over a team's limit."""
        self._refused.labels(str(team_id)).inc()

    def prompt_sent(self, num_tokens: int) -> None:
        """A sampler was asked to go on from so many tokens."""
        self._tokens_in.inc(num_tokens)

    def sampled(self, num_tokens: int) -> None:
        """Tokens that came back."""
        self._tokens_out.inc(num_tokens)

    def retried(self) -> None:
        """A request goes to another sampler."""
        self._retries.inc()

    def sampler_lost(self) -> None:
        """A sampler did not answer."""
        self._lost.inc()

    def recorded(self, num_completions: int, *, lost: bool) -> None:
        """Completions whose samples are on record, or are lost."""
        (self._unrecorded if lost else self._recorded).inc(num_completions)

    def looked_up(self, *, shared: bool) -> None:
        """A question about a key and a head."""
        (self._shared if shared else self._asked).inc()

    def attempt_lost(self, kind: str) -> None:
        """A runner was lost that held something of this kind."""
        self._attempts_lost.labels(kind).inc()

    def connections(self, pool: str, in_use: int, idle: int, waiting: int) -> None:
        """A pool as it is now."""
        self._connections.labels(pool, "in_use").set(in_use)
        self._connections.labels(pool, "idle").set(idle)
        self._connections.labels(pool, "waiting").set(waiting)

    def blob_bytes(self, direction: str, num_bytes: int) -> None:
        """A blob's size."""
        self._blob_bytes.labels(direction).inc(num_bytes)

    def picture(self, outcome: str) -> None:
        """A picture of a request was decoded, repeated or refused."""
        self._pictures.labels(outcome).inc()

    def sampler_called(self, call: str, outcome: str, seconds: float) -> None:
        """A call to a sampler ended."""
        self._sampler_calls.labels(call, outcome).observe(seconds)

    @contextmanager
    def operation(self, kind: str) -> Generator[None]:
        """Time what the block waits for."""
        with _timed(self._operations, kind):
            yield

    @contextmanager
    def decoding(self) -> Generator[None]:
        """Time the decoding of a picture, and what it waits for before."""
        with _timed(self._decoding):
            yield

    @contextmanager
    def blob(self, direction: str) -> Generator[None]:
        """Time a read or a write."""
        with _timed(self._blobs, direction):
            yield


@contextmanager
def _timed(histogram: Histogram, *labels: str) -> Generator[None]:
    started, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "done"
    finally:
        histogram.labels(*labels, outcome).observe(time.perf_counter() - started)
