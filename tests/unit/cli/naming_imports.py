"""`headway`, which says in the end what it has imported."""

from __future__ import annotations

import atexit
import sys

from cli.start import start

HEAVY = ("sqlalchemy", "psycopg", "pydantic", "numpy", "torch", "transformers", "fastapi", "httpx", "rich.table")


def start_and_name_imports() -> None:
    """The heavy libraries among them, on stdout, behind all else."""
    assert not any(name in sys.modules for name in HEAVY)
    atexit.register(lambda: sys.stdout.write(" ".join(["imported", *(name for name in HEAVY if name in sys.modules)])))
    start()
