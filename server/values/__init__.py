"""Values that clients send and read: what may be stored, what is wrong with them, and lists of them page by page."""
