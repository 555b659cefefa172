"""A Qwen3 of half a million weights that calls a tool: the base model of the game in `examples/guessing`."""
