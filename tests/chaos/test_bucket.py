"""Deaths of servers whose blobs lie in a bucket: between an upload, the look at tombstones, and the row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.box import Box
from tests.chaos.driver import open_box
from tests.chaos.faults import Fault
from tests.chaos.run import differences, run
from tests.object_store import ObjectStore

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

PREFIX = "chaos-blobs"


@pytest.fixture(scope="module")
def bucket_box(s3: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    copies: Path = tmp_path_factory.mktemp("copies")
    with open_box(blob_store_url=s3.url(copies, PREFIX)) as box:
        yield box


@pytest.mark.parametrize("seed", [50, 51], ids=["around the look", "around the upload"])
def test_deaths_leave_no_trace(bucket_box: Box, s3: ObjectStore, seed: int) -> None:
    """The disturbed run comes first: what a process put a minute ago it does not put again."""
    points = ("before-write", "before-look") if seed % 2 else ("before-look", "after-look")
    deaths = [Fault("server", f"blob:{point}", 2, "kill") for point in points]
    report = run(bucket_box, seed, deaths)
    assert report.points, "nobody died"
    assert report.violations == []
    assert differences(report, run(bucket_box, seed)) == []
    assert s3.keys(PREFIX), "the payloads are in the bucket"
    assert not (bucket_box.folder / "blobs").exists()
