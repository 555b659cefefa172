from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.unit.runner.environments.played import RUNS_CODE, Played, playing


@pytest_asyncio.fixture(scope="session")
async def played(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    """One version that all tests here share: its sessions share nothing."""
    folder = tmp_path_factory.mktemp("environments")
    folder.chmod(0o755)
    (folder / "keys.txt").write_text("the box's keys")
    async with playing({"env.py": RUNS_CODE}, folder) as played:
        yield played
