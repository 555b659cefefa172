from __future__ import annotations

import gc

import pytest

from wire.process.collector import paused_collector


def test_no_cycles_are_looked_for_while_a_process_loads() -> None:
    with paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_load_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(OSError, match="no weights"), paused_collector():
        raise OSError("no weights")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
