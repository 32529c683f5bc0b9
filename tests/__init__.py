"""Evidence: the layout mirrors the package."""
