#!/usr/bin/env bash
# pillow 13.0.0 (also 11.3.0 and 12.0.0): an uncompressed grey TIFF whose orientation tag asks
# for a quarter turn (5 to 8) comes out scrambled when it is opened by its name.
#
# Python 3.10 or newer, numpy 2.2.6. Of a file object the same bytes are turned rightly, and so
# are orientations 1 and 3, and colour. By name, pillow maps the file into memory with the width
# and height that the picture has after the turn, so that rows are cut in the wrong places, and
# turns the result, which therefore keeps the shape it had before. Scanners write such files;
# nothing is raised.
#
# Cure: `with open(path, "rb") as file: Image.open(file)`.
#
# Output seen, of the stored picture [[0, 10, 20], [30, 40, 50]] with orientation 6:
#   13.0.0 by name: [[40, 20, 0], [50, 30, 10]]
#   13.0.0 from a file object: [[30, 0], [40, 10], [50, 20]]
#
# Exits with 0 as long as the lines are as above, and with 1 if one changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "pillow==13.0.0" "numpy==2.2.6"

cat > "$folder/check.py" <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

path = sys.argv[1]
exif = Image.Exif()
exif[0x0112] = 6  # the viewer turns it a quarter clockwise
stored = np.array([[0, 10, 20], [30, 40, 50]], np.uint8)
Image.fromarray(stored).save(path, exif=exif)
with Image.open(path) as picture:
    print(f"{PIL.__version__} by name: {np.asarray(picture).tolist()}")
with open(path, "rb") as file, Image.open(file) as picture:
    print(f"{PIL.__version__} from a file object: {np.asarray(picture).tolist()}")
PYTHON

seen=$("$folder/venv/bin/python" "$folder/check.py" "$folder/turned.tiff")
echo "$seen"
expected="13.0.0 by name: [[40, 20, 0], [50, 30, 10]]
13.0.0 from a file object: [[30, 0], [40, 10], [50, 20]]"
[ "$seen" = "$expected" ] || { echo "the behaviour has changed"; exit 1; }
