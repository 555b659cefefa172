"""Anthropic's messages, as its client and the SDK's Claude agent send them: for other vendors' models alone."""
