"""The command `diffctl`: `demo`, `reconstruct`, `selfcheck`, `train` and `list`.

Strings become objects here and nowhere else. Importing this room costs little: JAX and
everything above it is loaded by the command that needs it.
"""

from diffctl.host import exit_while_loading

exit_while_loading()
