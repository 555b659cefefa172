"""`python -m cli`: the same as `headway`."""

from cli.main import app

app()
