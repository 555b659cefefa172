"""What pages share: rendering, routes, forms, filters, sessions, and the templates that others extend."""
