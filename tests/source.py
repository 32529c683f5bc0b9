"""The package as text: its files and what each imports."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffctl", "weights_convert", "experiments")


@cache
def files(package: str) -> tuple[Path, ...]:
    return tuple(sorted((ROOT / package).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every imported module, absolute, with its line; lazy imports too."""
    name = module_name(path)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = name.split(".")
                is_package = path.name == "__init__.py"
                keep = len(up) - node.level + is_package
                base = ".".join([*up[:keep], *([base] if base else [])])
            # `from diffctl import x` may import the module diffctl.x.
            yield from (
                (f"{base}.{alias.name}" if base == "diffctl" else base, node.lineno)
                for alias in node.names
            )
