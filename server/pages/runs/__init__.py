"""Managed training: the list of runs, and the page of one with its live steps."""
