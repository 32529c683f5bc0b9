"""DOC and DPS with few noise levels, and with a network that knows nothing."""
