"""Sizes that keep a file readable: hard limits fail, soft limits are reported."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.source import PACKAGES, ROOT, files, tree_of

FILE_LINES, FUNCTION_LINES, PARAMETERS, NESTING = 500, 80, 8, 3
SOFT_FILE_LINES, SOFT_FUNCTION_LINES = 300, 50

SOURCES = {
    str(path.relative_to(ROOT)): path for package in PACKAGES for path in files(package)
}
_BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))


def _num_lines(function: Function) -> int:
    """Count the lines of code and comments, the docstring aside."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return lines - ((first.end_lineno or 0) - first.lineno + 1) * has_docstring


def _num_parameters(function: Function) -> int:
    given = function.args
    names = [a.arg for a in given.posonlyargs + given.args + given.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])


def _depth(node: ast.AST) -> int:
    """Return how deeply blocks are nested; `elif` adds none, inner functions too."""
    depth = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            continue
        is_elif = isinstance(node, ast.If) and [child] == node.orelse
        opens = isinstance(child, _BLOCKS) and not is_elif
        depth = max(depth, opens + _depth(child))
    return depth


@pytest.mark.parametrize("source", SOURCES)
def test_hard_limits(source):
    path = SOURCES[source]
    broken = []
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    if num_lines > FILE_LINES:
        broken.append(f"{num_lines} lines in the file, at most {FILE_LINES}")
    for function in _functions(tree_of(path)):
        measured = {
            "lines": (_num_lines(function), FUNCTION_LINES),
            "parameters": (_num_parameters(function), PARAMETERS),
            "nested blocks": (_depth(function), NESTING),
        }
        broken += [
            f"{function.name}: {value} {what}, at most {limit}"
            for what, (value, limit) in measured.items()
            if value > limit
        ]
    assert not broken, "\n".join(broken)


def test_soft_limits_are_reported(capsys):
    """Never fails: lists on the terminal what is worth splitting."""
    long = []
    for source, path in SOURCES.items():
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > SOFT_FILE_LINES:
            long.append(f"{source}: {num_lines} lines")
        long += [
            f"{source}:{function.lineno} {function.name}: {_num_lines(function)} lines"
            for function in _functions(tree_of(path))
            if _num_lines(function) > SOFT_FUNCTION_LINES
        ]
    with capsys.disabled():
        sys.stdout.writelines(f"\nabove the soft limit: {line}" for line in long)


def test_the_measures_can_fail():
    deep = ast.parse(
        "def f(a, b, *, c):\n"
        "    '''Doc\n    string.'''\n"
        "    if a:\n        for _ in b:\n            with c:\n"
        "                if b:\n                    pass\n"
        "    elif b:\n        pass\n"
    )
    (function,) = _functions(deep)
    assert _depth(function) == 4
    assert _num_parameters(function) == 3
    assert _num_lines(function) == 8
