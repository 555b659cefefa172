"""Workers of trainers end with the test that made them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trainer.worker.loop import Worker


@pytest.fixture(autouse=True)
def workers_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Also those that a test replaced, as if their processes had died: their threads hold connections, of which
    PostgreSQL has none left after a hundred tests."""
    if "database" in request.fixturenames:
        request.getfixturevalue("database")  # which is closed after them
    made, init = list[Worker](), Worker.__init__

    def make(worker: Worker, *args: Any, **options: Any) -> None:
        init(worker, *args, **options)
        made.append(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "__init__", make)
        yield
    for worker in made:
        worker.close()
