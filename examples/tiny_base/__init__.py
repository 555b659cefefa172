"""A Qwen3 of half a million weights, made from nothing in under a minute: the base model of tests and of the demo."""
