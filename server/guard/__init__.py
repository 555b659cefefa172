"""The guard: rules that watch every step and evaluation of a model, and what they may do about what they find."""
