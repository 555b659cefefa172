"""The inference gateway: OpenAI requests in, tokens through a sampler, OpenAI replies out."""
