"""Files that survive crashes: durable writes, state encoding, checkpoints, locks."""
