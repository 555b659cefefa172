"""Sessions of clients that number their own requests: opened, kept alive by heartbeats, and finished."""
