"""The training API: batches in, operations appended, results out."""
