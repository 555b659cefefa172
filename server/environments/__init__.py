"""Environments that runners play: deployed, versioned, found, and removed; sessions of them."""
