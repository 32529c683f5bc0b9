"""Performance: each number with the floor it is measured against, as JSON."""
