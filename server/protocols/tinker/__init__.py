"""Thinking Machines' Tinker API, as its SDK calls it, under `/api/v1`."""
