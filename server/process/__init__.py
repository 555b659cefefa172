"""One server process: what it is configured with, and how it ends."""
