"""What a client can list, inspect, share, download and bring: runs, checkpoints, sessions, tokenizers."""
