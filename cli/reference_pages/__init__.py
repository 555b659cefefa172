"""Pages of docs/ that are written from the commands and the routes: `make docs`."""
