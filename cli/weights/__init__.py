"""Trained weights on this machine: adapters fetched from the service, merged into their base, sent to a hub."""
