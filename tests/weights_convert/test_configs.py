"""The built-in settings: what the README and the program list is what there is."""

import re

import pytest

from tests.source import ROOT
from weights_convert.cli import main
from weights_convert.configs import CONFIGS
from weights_convert.families import FAMILIES
from weights_convert.report import configs_markdown


def test_the_readme_lists_the_names_of_the_code():
    readme = (ROOT / "README.md").read_text()
    block = re.search(
        r"<!-- begin configs.*?-->\n(.*)\n<!-- end configs -->", readme, re.S
    )
    assert block is not None
    assert block.group(1).strip() == configs_markdown()


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_the_program_lists_them(options, capsys):
    assert main(["configs", *options]) == 0
    printed = capsys.readouterr().out
    for name, known in CONFIGS.items():
        (line,) = [x for x in printed.splitlines() if re.search(rf"[ `]{name}[ `]", x)]
        assert known.family in line and known.about in line


def test_every_name_belongs_to_a_family():
    assert {known.family for known in CONFIGS.values()} <= FAMILIES.keys()
