from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.distributed.processes import BLOCK_ROWS, RankProcesses
from trainer.engine import unembedding


@pytest.fixture(autouse=True, scope="module")
def several_blocks() -> Iterator[None]:
    """As the ranks have them: of the vocabularies of tiny bases."""
    with patch.object(unembedding, "BLOCK_ROWS", BLOCK_ROWS):
        yield


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
