"""An object store with the S3 API: which bucket, and what is asked of it."""
