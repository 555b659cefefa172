"""The sampler plane: token ids in, sampled token ids and their logprobs out, under any adapter that is loaded."""
