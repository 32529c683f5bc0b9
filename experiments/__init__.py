"""Reproducible runs behind the README's tables; `python -m experiments.NAME`."""

from diffctl.host import exit_while_loading

exit_while_loading()
