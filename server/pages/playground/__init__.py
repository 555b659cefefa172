"""The playground: the same prompt to one or two models or checkpoints."""
