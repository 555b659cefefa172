"""Everything that must survive: PostgreSQL tables, the op log, the checkpoint tree, blobs and checkpoint files."""
