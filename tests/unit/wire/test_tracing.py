"""Spans reach a real OTLP receiver, and nothing is imported without one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from tests.unit.wire.otlp_receiver import receiving

OPERATION = uuid.UUID("9dd8436c-e355-4198-a228-ea566a52567e")

_SERVER = f"""
import uuid
from wire.process.tracing import configure_tracing, current_ids, span, span_apart
configure_tracing("server")
caller = {{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
with span("POST", kind="server", caller=caller) as request:
    assert current_ids()["otel_trace"] == "0af7651916cd43dd8448eb211c80319c"
    with span("wait", {{"kind": "optim_step"}}, about=uuid.UUID("{OPERATION}")):
        pass
    with span_apart("sampler generate", kind="client") as call:
        print(call.headers()["traceparent"])
    request.rename("POST /here")
"""

_TRAINER = f"""
import uuid
from wire.process.tracing import configure_tracing, operation_span, span
configure_tracing("trainer")
for attempt in (1, 2):
    with operation_span(uuid.UUID("{OPERATION}"), attempt, {{"kind": "optim_step"}}):
        with span("adamw"):
            pass
with span("load adapter"):
    pass
"""


def run(program: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout


def test_a_request_continues_the_callers_trace_and_links_to_the_operations():
    with receiving() as receiver:
        sent = run(_SERVER, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    (request,), (wait,), (call,) = (receiver.named(n) for n in ("POST /here", "wait", "sampler generate"))
    assert request.service == "headway-server"
    assert (request.trace_id, request.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (wait.parent_id, wait.linked_traces) == (request.span_id, (OPERATION.hex,))
    assert wait.attributes["headway.kind"] == "optim_step"
    assert call.parent_id == request.span_id
    assert sent.strip() == f"00-{call.trace_id}-{call.span_id}-01"


def test_an_operation_is_a_trace_whose_id_is_its_own():
    with receiving() as receiver:
        run(_TRAINER, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    first, second = sorted(receiver.named("operation"), key=lambda span: span.attributes["headway.attempt"])
    assert {first.trace_id, second.trace_id} == {OPERATION.hex}
    assert first.span_id == OPERATION.hex[16:] != second.span_id
    assert [span.parent_id for span in receiver.named("adamw")] == [first.span_id, second.span_id]
    (other,) = receiver.named("load adapter")
    assert other.trace_id != OPERATION.hex


def test_without_an_endpoint_nothing_is_imported_and_spans_do_nothing():
    program = """
import sys
from wire.process.tracing import configure_tracing, current_ids, span
configure_tracing("server")
with span("x") as nothing:
    nothing.note(a=1)
    assert nothing.headers() == {} == current_ids()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    run(program)
