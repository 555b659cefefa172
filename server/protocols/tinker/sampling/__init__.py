"""Sampling in sessions, with answers that are fetched later."""
