from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.commands import missing
from tests.fleet.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """A test that needs hosts fails where they cannot be had: `make test-fleet` was asked for."""
    lacks = missing()
    assert not lacks, f"simulated hosts need: {'; '.join(lacks)}"
    with Network() as made:
        yield made
