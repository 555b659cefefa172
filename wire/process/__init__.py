"""What every process is made of: logging, tracing, faults, threads, exits, sockets."""
