"""`python -m server.cli`: the same as `headway`."""

from server.cli.main import app

app()
