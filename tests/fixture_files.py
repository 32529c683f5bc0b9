"""Find golden files: those of the repository and those the environment adds.

Folders searched for a kind such as "control": `tests/fixtures/<kind>`, and for every
folder D listed in DIFFCTL_FIXTURES (separated by ":"), `D/<kind>` and D itself.
"""

import os
from pathlib import Path

HERE = Path(__file__).parent / "fixtures"


def fixture_paths(kind: str, pattern: str = "*.npz") -> list[Path]:
    """Return the files of a kind, sorted by name, without exact duplicates.

    A file that two folders share byte for byte is listed once. Files of one name but
    different content are all listed.
    """
    added = [Path(name) for name in os.environ.get("DIFFCTL_FIXTURES", "").split(":")]
    added = [folder for folder in added if folder != Path()]
    folders = [HERE / kind, *(folder / kind for folder in added), *added]
    found: dict[tuple[str, bytes], Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(pattern)):
            found.setdefault((path.name, path.read_bytes()), path)
    return sorted(found.values(), key=lambda path: (path.name, str(path)))


def fixture_ids(paths: list[Path]) -> list[str]:
    """Return readable test ids that carry the names of the fixtures."""
    names = [path.stem for path in paths]
    return [
        name if names.count(name) == 1 else f"{path.parent.name}-{name}-{number}"
        for number, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
