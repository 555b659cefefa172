"""The certificates that docs/tls.md has openssl make are ones that planes take."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from wire.process.tls import PlaneTrust, TlsSettings, TrustSettings, check_files, listening_context

PAGE = (Path(__file__).parents[3] / "docs" / "tls.md").read_text()


@pytest.mark.parametrize(("plane", "name"), [("server", "headway.example"), ("planes", "planes.headway.internal")])
async def test_planes_believe_the_certificates_of_the_page(plane: str, name: str, tmp_path: Path):
    found = re.search(r"```bash\n(openssl req .*?)```", PAGE, re.DOTALL)
    assert found is not None
    await asyncio.to_thread(subprocess.run, ["bash", "-euc", found[1]], cwd=tmp_path, check=True, capture_output=True)
    settings = TlsSettings(tmp_path / f"{plane}.crt", tmp_path / f"{plane}.key")
    check_files(settings)
    trust = PlaneTrust(TrustSettings(tmp_path / "ca.crt", name))
    context = listening_context(settings)
    async with await asyncio.start_server(
        lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context
    ) as server:
        port = server.sockets[0].getsockname()[1]
        options = trust.connection_options("127.0.0.1", is_tls=True)
        _, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        writer.close()
