"""Tasksets that a team shares, and what the SDK asks for on the way to them."""
