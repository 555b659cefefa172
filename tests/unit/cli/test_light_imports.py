"""Commands start without what only a trainer's or a sampler's machine has installed."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "tokenizers", "vllm", "fastapi", "httpx")


def test_the_command_line_imports_no_heavy_library():
    code = f"import sys, cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
