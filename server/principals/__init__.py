"""Who calls: team, role, scopes and quotas of a key. Every core function that decides by them takes a `Caller`."""
