"""Takes placements from the server, carries each out in a task of its own, and reports how it went."""
