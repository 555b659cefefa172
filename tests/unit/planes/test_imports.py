"""What a plane has imported once it has started: nothing that only others use, for each library stays in its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.box.forking import LIBRARIES

NOBODYS = {"datasets", "hud", "IPython", "matplotlib", "mlflow", "nltk", "pandas", "pyarrow", "pytest", "scipy"} | {
    *("sklearn", "tensorboard", "tinker", "torchvision", "trl", "vllm", "wandb")
}
"""Which an installation for tests or a demo has, and libraries import where they find them. (boto3 is not among them:
where an object store's client is installed, accelerate, and so transformers, imports it for a command of its own.)"""
OF_WEIGHTS = {"accelerate", "huggingface_hub", "peft", "safetensors", "sympy", "tokenizers", "torch", "transformers"}
OF_HTTP = {"fastapi", "starlette", "uvicorn", "websockets"}
OF_THE_DATABASE = {"psycopg", "sqlalchemy"}

# Those without weights first, then the one without peft: each is forked from a process that has what the rest share.
PLANES = {
    "server": (
        "import server.main, server.app",
        OF_WEIGHTS | {"alembic", "llguidance", "typer", "trainer", "sampler", "runner", "cli"},
    ),
    "runner": (
        "import runner.main",
        OF_WEIGHTS | OF_HTTP - {"websockets"} | OF_THE_DATABASE | {"numpy", "typer", "server", "trainer", "sampler"},
    ),
    "up": ("import cli.box.up", OF_WEIGHTS | OF_HTTP | {"alembic", "trainer", "jinja2"}),
    "sampler": (
        "import sampler.main, sampler.backends.local.backend",
        {"alembic", "peft", "typer", "server", "trainer", "runner", "cli"},
    ),
    "trainer": (
        "import trainer.leader",
        OF_HTTP | {"alembic", "httpx", "llguidance", "pydantic", "typer", "server", "sampler", "runner", "cli"},
    ),
    "a rank of a trainer": (
        "import trainer.follower",
        OF_HTTP | {"alembic", "httpx", "pydantic", "sqlalchemy", "typer", "server", "sampler", "runner", "cli"},
    ),
}


_SHARED = {
    "sampler": "import accelerate, transformers.generation.utils, transformers.models.auto.image_processing_auto",
    "trainer": "import peft",
}
"""What this plane and those after it import, and is slow: imported once, by the process that they are forked from, and
counted as theirs."""
_IN_FORKS = f"""
import os, sys
for plane, imports in {[(plane, imports) for plane, (imports, others) in PLANES.items()]!r}:
    exec({_SHARED!r}.get(plane, ""))
    sys.stdout.flush()
    if os.fork() == 0:
        exec(imports)
        print(plane, *sorted({{name.partition('.')[0] for name in sys.modules}}), sep=",", flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{{plane}} cannot be imported")

for name in {LIBRARIES!r}:
    __import__(name)
shared = set(sys.modules)
for plane, imports in {[(plane, PLANES[plane][0]) for plane in ("trainer", "sampler")]!r}:
    if os.fork() == 0:
        exec(imports)
        print("forked " + plane, *sorted(set(sys.modules) - shared), sep=",", flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{{plane}} cannot be imported")
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """By plane, the libraries that it has imported; by "forked trainer" and "forked sampler", the modules that one has
    imported which was forked from the fork server of `headway up`."""
    found = subprocess.run([sys.executable, "-c", _IN_FORKS], capture_output=True, text=True, check=True)
    lines = (line.split(",") for line in found.stdout.splitlines())
    return {plane: set(names) for plane, *names in lines}


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_imports_nothing_that_only_others_use(plane: str, imported: dict[str, set[str]]):
    assert imported[plane] & (PLANES[plane][1] | NOBODYS) == set()


def test_forked_planes_import_no_library_that_is_not_shared(imported: dict[str, set[str]]):
    """Else each has it in its own memory."""
    ours = {"store", "wire", "migrations"}
    both = imported["forked trainer"] & imported["forked sampler"]
    assert {name for name in both if name.partition(".")[0] not in ours} == set()
