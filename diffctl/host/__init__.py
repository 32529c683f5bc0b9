"""Programs and the machine they run on: output that appears whole, Ctrl-C, errors.

Knows the operating system and nothing of the library, and costs next to nothing to
import: programs answer Ctrl-C before JAX is loaded.
"""

from diffctl.host.archives import read_arrays as read_arrays
from diffctl.host.documents import parse_json as parse_json
from diffctl.host.documents import read_json as read_json
from diffctl.host.documents import to_json as to_json
from diffctl.host.files import held as held
from diffctl.host.files import new_file as new_file
from diffctl.host.interruption import answered as answered
from diffctl.host.interruption import exit_while_loading as exit_while_loading
from diffctl.host.interruption import if_interrupted as if_interrupted
from diffctl.host.interruption import whole as whole
from diffctl.host.locks import InUseError as InUseError
from diffctl.host.locks import locked as locked
from diffctl.host.output import MODEL as MODEL
from diffctl.host.output import RESULT as RESULT
from diffctl.host.output import DisplacedError as DisplacedError
from diffctl.host.output import Kind as Kind
from diffctl.host.output import Place as Place
from diffctl.host.output import check_free as check_free
from diffctl.host.output import claimed as claimed
from diffctl.host.output import new_folder as new_folder
from diffctl.host.paths import first_free as first_free
from diffctl.host.paths import naming as naming
from diffctl.host.paths import temporary_folder as temporary_folder
from diffctl.host.program import explain as explain
from diffctl.host.program import run as run
from diffctl.host.settings import Count as Count
from diffctl.host.settings import Natural as Natural
from diffctl.host.settings import Positive as Positive
from diffctl.host.settings import Range as Range
from diffctl.host.settings import Seed as Seed
from diffctl.host.settings import check_settings as check_settings
from diffctl.host.settings import check_value as check_value
from diffctl.host.settings import show as show
