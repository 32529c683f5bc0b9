"""The README is generated where it can be, and its example runs."""

import re
from pathlib import Path

from diffctl.cli.listing import contents, markdown

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_lists_are_those_of_the_code():
    block = re.search(
        r"<!-- begin generated -->\n(.*)<!-- end generated -->", README, re.DOTALL
    )
    assert block is not None
    assert block.group(1).strip() == markdown(contents())


def test_example_runs():
    example = re.search(r"## Ten lines of Python\n\n```python\n(.*?)```", README, re.S)
    assert example is not None
    scope: dict[str, object] = {}
    exec(example.group(1), scope)
    assert int(scope["solution"].status) == 0
