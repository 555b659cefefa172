"""One folder for each wire protocol. None knows another; the core knows none."""
