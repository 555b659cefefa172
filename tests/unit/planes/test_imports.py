"""What a plane has imported once it has started: nothing that only others use, for each library stays in its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOBODYS = {"datasets", "hud", "IPython", "matplotlib", "mlflow", "nltk", "pandas", "pyarrow", "pytest", "scipy"} | {
    *("sklearn", "tensorboard", "tinker", "torchvision", "trl", "vllm", "wandb")
}
"""Which an installation for tests or a demo has, and libraries import where they find them. (boto3 is not among them:
where an object store's client is installed, accelerate, and so transformers, imports it for a command of its own.)"""
OF_WEIGHTS = {"accelerate", "huggingface_hub", "peft", "safetensors", "sympy", "tokenizers", "torch", "transformers"}
OF_HTTP = {"fastapi", "starlette", "uvicorn", "websockets"}
OF_THE_DATABASE = {"psycopg", "sqlalchemy"}

PLANES = {
    "server": (
        "import server.main, server.app",
        OF_WEIGHTS | {"alembic", "llguidance", "typer", "trainer", "sampler", "runner", "cli"},
    ),
    "trainer": (
        "import trainer.leader",
        OF_HTTP | {"alembic", "httpx", "llguidance", "pydantic", "typer", "server", "sampler", "runner", "cli"},
    ),
    "a rank of a trainer": (
        "import trainer.follower",
        OF_HTTP | {"alembic", "httpx", "pydantic", "sqlalchemy", "typer", "server", "sampler", "runner", "cli"},
    ),
    "sampler": (
        "import sampler.main, sampler.backends.local.backend",
        {"alembic", "peft", "typer", "server", "trainer", "runner", "cli"},
    ),
    "runner": (
        "import runner.main",
        OF_WEIGHTS | OF_HTTP - {"websockets"} | OF_THE_DATABASE | {"numpy", "typer", "server", "trainer", "sampler"},
    ),
    "up": ("import cli.box.up", OF_WEIGHTS | OF_HTTP | {"alembic", "trainer", "jinja2"}),
}


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_imports_nothing_that_only_others_use(plane: str):
    imports, others = PLANES[plane]
    program = f"import sys; {imports}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) & (others | NOBODYS) == set()
