"""Runners: who they are, what they are given to carry out, the keys of their agents, and how it went."""
