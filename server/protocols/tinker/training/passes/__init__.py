"""Gradient passes as they are sent, in protobuf or JSON, and their results."""
