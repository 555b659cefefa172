"""Where servers reach the environments of sessions: websockets, one for each connection that a client opens."""
