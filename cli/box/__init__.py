"""`headway up`: all planes as child processes on one machine."""
