"""Held-out scores: posted by any harness, or summed up from evaluation jobs."""
