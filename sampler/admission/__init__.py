"""Which requests a sampler takes, in which order, and which it refuses."""
