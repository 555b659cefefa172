"""Which tasks teach, and which do not."""
