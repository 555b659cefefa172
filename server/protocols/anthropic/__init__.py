"""Anthropic's wire: messages of every model, its errors and its streams."""
