from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.box import Box
from tests.chaos.driver import open_box


@pytest.fixture(scope="module")
def chaos_box() -> Iterator[Box]:
    with open_box(lease_ttl_s=1.0) as box:
        yield box
