"""Grammars are built in threads with room for the deepest schema, whatever a thread gets by default."""

from __future__ import annotations

import ctypes
import threading

from sampler.backends.local.deep_threads import STACK_BYTES, deep_threads
from sampler.chat.json_schemas import MAX_OBJECTS
from tests.unit.sampler.test_call_forms import QWEN, Base
from wire.sampling import Constraint


def stack_bytes() -> int:
    """Of the thread that asks."""
    libc = ctypes.CDLL(None)
    attributes, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    libc.pthread_self.restype = ctypes.c_void_p
    assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes) == 0
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    libc.pthread_attr_destroy(attributes)
    return size.value


def test_a_chain_of_references_as_long_as_may_be_is_built_where_threads_have_two_mebibytes():
    before = threading.stack_size(2 * 1024 * 1024)
    try:
        pool = deep_threads(2, "deep")
        assert threading.stack_size() == 2 * 1024 * 1024
    finally:
        threading.stack_size(before)
    with pool:
        assert pool.submit(stack_bytes).result() >= STACK_BYTES, "the next would end the process"
        length = MAX_OBJECTS - 3
        links = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(length)}
        schema = {"$defs": {**links, f"d{length}": {"type": "integer"}}, "$ref": "#/$defs/d0"}
        form = pool.submit(Base(QWEN).constraints.start, Constraint(json_schema=schema)).result()
    assert form.allowed_V().any()


def test_the_local_backend_builds_in_such_threads(backend):
    assert backend._builders.submit(stack_bytes).result() >= STACK_BYTES
