"""A box for the Tinker SDK. Its address is handed to each client: in the environment it would replace that of the box
which the HUD SDK of this process was pointed at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.conftest import own_box, tiny_base
from tests.postgres_template import lay_out
from tests.tinker.program_forks import ProgramForks

__all__ = ["own_box", "tiny_base"]


@pytest.fixture(scope="session")
def box(tiny_base: Path) -> Iterator[Box]:
    with database_folder() as folder:
        box = Box(lay_out(folder / "data" / "postgres").parent, tiny_base, is_forked=True).start()
        os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
        yield box
        if box.process is not None:
            assert box.stop() == 0


@pytest.fixture(scope="session")
def forks() -> Iterator[ProgramForks]:
    forks = ProgramForks()
    yield forks
    forks.close()
