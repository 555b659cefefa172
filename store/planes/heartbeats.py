"""How often planes say that they live, and how long what they hold outlasts it. Settings need it, and no database."""

HEARTBEAT_S = 2.0
LEASE_TTL_S = 2 * HEARTBEAT_S
"""Of a trainer's lease of a model, where nobody says else."""
