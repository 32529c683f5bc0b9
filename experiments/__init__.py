"""Reproducible runs behind the README's tables; `python -m experiments.NAME`."""
