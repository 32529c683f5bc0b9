"""The tables of the digits experiment, from its files."""

from experiments.common import (
    Measure,
    Results,
    origin,
    pivot,
    summarise,
    to_markdown,
    write_tables,
)

MEASURES = (
    Measure("psnr", "PSNR (dB)", 2),
    Measure("ssim", "SSIM", 3),
    Measure("misfit", "misfit", 2),
    Measure("recognised", "recognised (%)", 1, factor=100),
    Measure("forwards", "forwards", 0),
    Measure("vjps", "VJPs", 0),
)


def render(results: Results) -> str:
    """Write `table.md` and `table.json`, and return the former."""
    records = results.records()
    summaries = summarise(records, MEASURES)
    text = (
        f"{pivot(summaries, MEASURES[0], 'task')}\n{MEASURES[0].heading}.\n\n"
        f"{to_markdown(summaries, MEASURES)}\n{origin(records)} Misfit: squared "
        "residual per measured number in units of the noise variance, 1 at the noise "
        "level. Forwards, VJPs: network calls per image. Seconds: of the compiled "
        "program per image, in chunks, without compilation.\n"
    )
    write_tables(results.out, text, summaries)
    return text
