"""What a user of Headway writes: a base model, an environment, a training loop. Imports nothing of ours."""
