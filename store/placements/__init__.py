"""Runners and the queue of what they carry out: statements, one concept a module."""
