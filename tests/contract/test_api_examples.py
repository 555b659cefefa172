"""The calls of docs/api.md, as they are printed, in one shell."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from cli.reference_pages.api_reference import render
from server.auth.service import create_key

PAGE = Path(__file__).parents[2] / "docs/api.md"


def test_the_page_is_what_the_routes_say() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"


async def test_every_call_of_the_page_succeeds(team, base, database, origin, tmp_path) -> None:
    async with database.session() as session:
        operator = await create_key(session, team.name, "operator", role="admin")
    (tmp_path / ".headway").mkdir()
    for name, key in (("env", team.key), ("admin-env", operator)):
        text = f"export HUD_API_URL={origin}\nexport HUD_API_KEY={key}\n"
        (tmp_path / ".headway" / name).write_text(text)
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = "set -eo pipefail\n" + "".join(blocks).replace("tiny-arith", base.slug)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    shell = await asyncio.create_subprocess_exec("bash", "-x", cwd=tmp_path, env=environment, **pipes)
    shown, _ = await shell.communicate(script.encode())
    assert shell.returncode == 0, shown.decode()
    assert '"checkpoint_id"' in shown.decode(), "a step was made"
