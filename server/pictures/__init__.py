"""Pictures of requests: decoded in a process of its own, kept as one PNG each, and named by its digest."""
