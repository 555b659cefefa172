"""What `make chaos` says when a promise is switched off. With a box of its own: what is wrong in the database stays."""

from __future__ import annotations

import pytest

from tests.chaos.box import Box
from tests.chaos.run import RunReport, run
from tests.chaos.saboteur import noticed_in
from tests.chaos.test_short import SEED

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def undisturbed(chaos_box: Box) -> RunReport:
    return run(chaos_box, SEED)


@pytest.mark.parametrize("promise", ["replay", "fencing"])
def test_a_promise_that_is_switched_off_is_noticed(chaos_box: Box, undisturbed: RunReport, promise: str):
    chaos_box.break_promise(promise)
    try:
        assert noticed_in(chaos_box, undisturbed, promise)
    finally:
        chaos_box.break_promise(None)
