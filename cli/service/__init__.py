"""The service as its clients reach it: where it is, with which key, and calls of its API."""
