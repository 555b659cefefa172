"""Runs, their passes and steps, and what they save."""
