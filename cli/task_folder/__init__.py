"""The folder that `headway init` makes: an environment, its tasks, a training loop."""
