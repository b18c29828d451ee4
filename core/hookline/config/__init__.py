"""The config room: from TOML files, mappings and overrides to a complete ``RunConfig``, and to its result."""
