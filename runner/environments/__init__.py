"""Environments on this machine: built from what was deployed, started per session, kept apart from everything else.

`opening.open_environments` makes them; the port is in `base`. `inside` and `isolation` are loaded inside sandboxes,
too, by whatever Python an environment has: they import the standard library alone, and so does this file.
"""
