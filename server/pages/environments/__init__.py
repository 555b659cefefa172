"""Environments: the list of them, and the page of one with its versions."""
