"""A server's Prometheus metrics. One exemplar of each kind: `instruments` counts as things happen, `census` asks the
database when somebody scrapes."""
