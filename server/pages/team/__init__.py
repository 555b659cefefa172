"""A team: what it uses, its quotas, and its keys."""
