"""The tables of the robustness experiment, from its files."""

from experiments.common import (
    Measure,
    Results,
    cell,
    origin,
    pivot,
    summarise,
    write_tables,
)

PSNR = Measure("psnr", "PSNR (dB)", 2)
MISFIT = Measure("misfit", "terminal misfit, 1 at the noise level", 2)
BEST = Measure("psnr_posterior_mean", "PSNR (dB) of the exact posterior mean", 2)


def render(results: Results) -> str:
    """Write `table.md` and `table.json`, and return the former."""
    records = results.records()
    records.sort(key=lambda record: record["labels"]["levels"])
    summaries = summarise(records, (PSNR, MISFIT, BEST))
    summaries.sort(key=lambda s: [str(v) for v in s.labels.values()][:3])
    parts = [
        f"{measure.heading}\n\n{pivot(summaries, measure, 'levels')}"
        for measure in (PSNR, MISFIT)
    ]
    exact = [s for s in summaries if s.statistics[BEST.name]["mean"] is not None]
    if exact:
        best = cell(exact[0].statistics[BEST.name], BEST)
        parts.append(f"{BEST.heading} on the mixture: {best}\n")
    text = "\n".join([*parts, origin(records) + "\n"])
    write_tables(results.out, text, summaries)
    return text
