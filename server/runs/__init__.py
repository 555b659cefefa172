"""Managed training: runs are made, carried out step by step from their rows, followed, paused, resumed, cancelled."""
