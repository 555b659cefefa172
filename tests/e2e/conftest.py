"""One box for most of the suite, with the SDK pointed at it before the SDK is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box, point_sdk_at
from tests.postgres_template import lay_out

TINY_BASE = Path(__file__).parents[2] / ".headway-cache" / "tiny-arith"


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    assert (TINY_BASE / "config.json").exists(), "run `make test`, which builds the tiny base first"
    return TINY_BASE


@pytest.fixture(scope="session")
def box(tiny_base: Path) -> Iterator[Box]:
    with database_folder() as folder:
        box = Box(lay_out(folder / "data" / "postgres").parent, tiny_base, is_forked=True).start()
        os.environ.update(box.env)
        os.environ.update(
            NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", HUD_SKIP_VERSION_CHECK="1", HUD_CLI_ANALYTICS_ENABLED="0"
        )
        point_sdk_at(box)
        yield box
        if box.process is not None:
            assert box.stop() == 0


@pytest.fixture
def own_box(tiny_base: Path) -> Iterator[Box]:
    """A box that the test may kill and restart."""
    with database_folder() as folder:
        box = Box(lay_out(folder / "data" / "postgres").parent, tiny_base)
        yield box
        if box.process is not None:
            box.stop()
