"""Options of the experiments that are out of range, told before anything is done."""

import pytest

import experiments.digits.__main__ as digits
import experiments.generative.__main__ as generative
import experiments.gmm_benchmark.__main__ as gmm_benchmark
import experiments.robustness.__main__ as robustness
from experiments.digits.budgets import solver_within

_DATA = ["--data", "nowhere.npz"]
PROGRAMS = {
    "digits": (digits.main, _DATA, ("count", "chunk")),
    "generative": (generative.main, _DATA, ("count", "num-steps", "batch-size")),
    "gmm_benchmark": (
        gmm_benchmark.main,
        [],
        ("problems", "samples", "levels", "directions", "dims", "measurements"),
    ),
    "robustness": (robustness.main, [], ("count", "levels", "chunk")),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numbers_out_of_range_are_refused_by_name(name, tmp_path, capsys):
    main, given, counts = PROGRAMS[name]
    out = ["--out", str(tmp_path / "out")]
    wrong = [(count, value) for count in counts for value in ("0", "-1", str(2**70))]
    wrong += [("seed", "-1"), ("seed", str(2**70)), ("noise-std", "nan")]
    for option, value in wrong:
        assert main([*given, *out, f"--{option}", value]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"experiments.{name}: error: --{option}"), error
        assert f" is {value}; expected a" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_depends_on_two_options_is_refused_early(tmp_path, capsys):
    given = ["--out", str(tmp_path / "out"), "--problems", "1"]
    assert gmm_benchmark.main([*given, "--dims", "8", "7"]) == 2
    assert "expected an even d" in capsys.readouterr().err
    assert robustness.main(["--out", str(tmp_path / "out"), "--count", "33"]) == 2
    assert (
        "--count is 33; expected a whole number from 1 to 32" in capsys.readouterr().err
    )


@pytest.mark.parametrize("budget", ["0", "-5", "x", "1" * 7, "²", "1e3", ""])
def test_budgets_that_are_none(budget):
    with pytest.raises(
        ValueError, match="expected 'own' or a positive number of calls"
    ):
        solver_within(budget, "dps", "box_inpainting")
