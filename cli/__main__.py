"""`python -m cli`: the same as `headway`."""

from cli.start import start

start()
