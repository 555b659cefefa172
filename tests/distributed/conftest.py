from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.processes import RankProcesses


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankProcesses]:
    ranks = RankProcesses(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module", params=[3, 4])
def more_ranks(request: pytest.FixtureRequest) -> Iterator[RankProcesses]:
    ranks = RankProcesses(request.param)
    yield ranks
    ranks.close()
