"""The one linear history of the PostgreSQL schema."""
