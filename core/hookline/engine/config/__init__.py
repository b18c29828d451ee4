"""TOML and overrides -> one complete ``RunConfig``."""
