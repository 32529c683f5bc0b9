"""What the experiments share: rows that are run, files that are kept, tables."""

from experiments.common.entry import command as command
from experiments.common.entry import measured as measured
from experiments.common.restoration import Restorations as Restorations
from experiments.common.runner import Row as Row
from experiments.common.runner import run_rows as run_rows
from experiments.common.solving import Examples as Examples
from experiments.common.store import Results as Results
from experiments.common.table import Measure as Measure
from experiments.common.table import cell as cell
from experiments.common.table import origin as origin
from experiments.common.table import pivot as pivot
from experiments.common.table import provenance as provenance
from experiments.common.table import summarise as summarise
from experiments.common.table import to_markdown as to_markdown
from experiments.common.table import with_figures as with_figures
from experiments.common.table import write_tables as write_tables
