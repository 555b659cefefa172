"""The runner: environments and whole rollouts, on machines that may vanish. It speaks HTTP to the server."""
