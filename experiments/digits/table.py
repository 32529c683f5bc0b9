"""The tables of the digits experiment, from its files."""

from functools import partial

from experiments.common import (
    Measure,
    Results,
    origin,
    summarise,
    to_markdown,
    with_figures,
    write_tables,
)
from experiments.digits.figure import write_figure
from experiments.digits.standings import PSNR, standings

MEASURES = (
    PSNR,
    Measure("ssim", "SSIM", 3),
    Measure("misfit", "misfit", 2),
    Measure("recognised", "recognised (%)", 1, factor=100),
    Measure("forwards", "forwards", 0),
    Measure("vjps", "VJPs", 0),
)


def render(results: Results) -> str:
    """Write `table.md`, `table.json` and the figure, and return the first of them."""
    records = results.records()
    summaries = summarise(records, MEASURES)
    text = (
        f"{standings(summaries)}\nBehind the best: by how many dB a solver is behind "
        "the best of its budget on the same images, mean over the tasks it can do; in "
        "brackets: the number of images where it is smaller. A budget is the number "
        "of network calls, forwards and VJPs, that a solver may make; `own` are its "
        "default settings.\n\n"
        f"{to_markdown(summaries, MEASURES)}\n{origin(records)} Misfit: squared "
        "residual per measured number in units of the noise variance, 1 at the noise "
        "level. Forwards, VJPs: network calls per image. Seconds: of the compiled "
        "program per image, in chunks, without compilation.\n"
    )
    text = with_figures(text, partial(write_figure, results.out, summaries))
    write_tables(results.out, text, summaries)
    return text
