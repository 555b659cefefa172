"""An environment deployed over HUD's API, as its CLI does."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.box import Box

SUMS = Path(__file__).parent / "sums"
SUMS_NAME = "Test_Sums"


def archive_of(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted(folder.glob("*.py")):
            tar.add(path, path.name)
    return packed.getvalue()


def deploy(box: Box, folder: Path = SUMS, name: str = SUMS_NAME, timeout_s: float = 120.0) -> dict[str, Any]:
    """The status of its build, which has ended."""
    upload = box.call("POST", "/v2/builds/upload-url")
    put = httpx.put(
        upload["upload_url"],
        content=archive_of(folder),
        headers={"Content-Type": "application/gzip"},
        trust_env=False,
    )
    assert put.is_success, put.text
    body = {"source": "direct", "build_id": upload["build_id"], "name": name, "no_cache": False}
    build = box.call("POST", "/v2/builds/trigger", body)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = box.call("GET", f"/v2/builds/{build['id']}/status")
        if status["status"] not in ("IN_PROGRESS", "QUEUED", "PENDING"):
            return status
        time.sleep(0.1)
    raise AssertionError(f"{status} after {timeout_s} s\n{box.logs()}")
