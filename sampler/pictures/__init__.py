"""Pictures in a sampler: their bytes, their pixels, and the tokens that stand for them in a prompt."""
