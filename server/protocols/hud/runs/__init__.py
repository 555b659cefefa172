"""`/v2/runs`: managed training."""
