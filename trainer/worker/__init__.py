"""The trainer without torch: leases models, reads the log, drives the engine, writes results."""
