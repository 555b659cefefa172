"""The core of sampling: prompts in, tokens through a sampler, answers out and on record. Knows no protocol."""
