"""Spans for OpenTelemetry, when OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise nothing is imported and spans are free.

An operation's work in the trainer is a trace of its own, whose id is the operation's: whoever knows the operation can
name the trace, so nothing has to travel through the op log. The server's span of a call links to it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal
from uuid import UUID

import structlog

log = structlog.get_logger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Value = str | int | float | bool
Kind = Literal["internal", "server", "client"]

_tracer: Any = None
_given_id: ContextVar[UUID | None] = ContextVar("given_id", default=None)


class Span:
    """One span; without an endpoint it does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: Value) -> None:
        """Set attributes; their names get the prefix `headway.`."""
        if self._span is not None:
            self._span.set_attributes({f"headway.{name}": value for name, value in attributes.items()})

    def rename(self, name: str) -> None:
        """What it turned out to be."""
        if self._span is not None:
            self._span.update_name(name)

    def failed(self, reason: str) -> None:
        """It came to nothing."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, reason))

    def headers(self) -> dict[str, str]:
        """What carries this span's context over HTTP."""
        if self._span is None:
            return {}
        from opentelemetry.propagate import inject
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        inject(carrier, set_span_in_context(self._span))
        return carrier


_NO_SPAN = Span()


def configure_tracing(plane: str) -> None:
    """Export this process's spans, if an endpoint is set. The OTEL_ variables of the SDK hold."""
    global _tracer
    if not any(os.environ.get(variable) for variable in ENDPOINT_VARIABLES):
        return
    try:
        _tracer = _new_tracer(plane)
    except ModuleNotFoundError as missing:
        log.warning("no_traces", reason=f"an OTLP endpoint is set, but {missing.name} is missing: headway[otel]")


def span(
    name: str,
    attributes: Mapping[str, Value] | None = None,
    *,
    kind: Kind = "internal",
    caller: Mapping[str, str] | None = None,
    about: UUID | None = None,
) -> AbstractContextManager[Span]:
    """A context manager that yields a `Span`, the parent of what is begun inside it.

    `caller`: headers of a request, whose span is the parent. `about`: the operation whose trace this one links to.
    """
    return nullcontext(_NO_SPAN) if _tracer is None else _current(name, kind, caller, about, attributes or {})


@contextmanager
def span_apart(name: str, *, kind: Kind = "internal") -> Generator[Span]:
    """A span that does not become the current one: for generators, whose pieces may run in several contexts."""
    if _tracer is None:
        yield _NO_SPAN
        return
    started = _tracer.start_span(name, kind=_kind(kind))
    apart = Span(started)
    try:
        yield apart
    except Exception as error:
        apart.failed(f"{type(error).__name__}: {error}")
        raise
    finally:
        started.end()


@contextmanager
def operation_span(operation_id: UUID, attempt: int, attributes: Mapping[str, Value]) -> Generator[Span]:
    """The root of an operation's trace. A second attempt is another root in the same trace."""
    if _tracer is None:
        yield _NO_SPAN
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    if attempt <= 1:
        _given_id.set(operation_id)
        context = Context()
    else:
        context = set_span_in_context(_remote(operation_id), Context())
    named = _prefixed({"operation": str(operation_id), "attempt": attempt, **attributes})
    with _tracer.start_as_current_span("operation", context=context, attributes=named) as started:
        yield Span(started)


def current_ids() -> dict[str, str]:
    """Trace and span that run now, for log lines."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"otel_trace": f"{context.trace_id:032x}", "otel_span": f"{context.span_id:016x}"}


@contextmanager
def _current(
    name: str, kind: Kind, caller: Mapping[str, str] | None, about: UUID | None, attributes: Mapping[str, Any]
) -> Generator[Span]:
    from opentelemetry.propagate import extract
    from opentelemetry.trace import Link

    context = extract(caller) if caller is not None else None
    links = [Link(_remote(about).get_span_context())] if about is not None else []
    with _tracer.start_as_current_span(
        name, context=context, kind=_kind(kind), links=links, attributes=_prefixed(attributes)
    ) as started:
        yield Span(started)


def _prefixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"headway.{name}": value for name, value in attributes.items()}


def _kind(kind: Kind) -> Any:
    from opentelemetry.trace import SpanKind

    return SpanKind[kind.upper()]


def _remote(operation_id: UUID) -> Any:
    """The first attempt at an operation, as seen from elsewhere."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return NonRecordingSpan(SpanContext(operation_id.int, _span_id(operation_id), is_remote=True, trace_flags=flags))


def _span_id(operation_id: UUID) -> int:
    return operation_id.int & (2**64 - 1)  # never 0: a uuid's variant lies there


def _new_tracer(plane: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class GivenIds(RandomIdGenerator):
        """Random, but for the root of an operation's trace."""

        def generate_trace_id(self) -> int:
            given = _given_id.get()
            return given.int if given is not None else super().generate_trace_id()

        def generate_span_id(self) -> int:
            given = _given_id.get()
            _given_id.set(None)
            return _span_id(given) if given is not None else super().generate_span_id()

    resource = Resource.create({"service.name": f"headway-{plane}"})
    provider = TracerProvider(resource=resource, id_generator=GivenIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("headway")
