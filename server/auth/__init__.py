"""API keys: who calls."""
