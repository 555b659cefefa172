"""The op log: `append` and `results` for those who ask, `work` for the trainer that answers."""
