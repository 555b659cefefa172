"""The glue between the web framework and everything else: routes, keys, bodies, errors, shutdown."""
