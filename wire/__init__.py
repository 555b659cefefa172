"""The floor of the house: wire types, error classes, and the ports between planes.

Imports nothing of ours, and neither torch, SQLAlchemy nor a web framework, so that every plane can stand on it.
"""
