"""Trainers and samplers as rows: registration, heartbeats, what they hold and what they lack."""
