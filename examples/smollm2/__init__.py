"""A real base: SmolLM2-135M-Instruct, out of a wheel that the package index serves."""
