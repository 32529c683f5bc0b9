#!/usr/bin/env bash
# safetensors 0.8.0: `safetensors.numpy.save` and `save_file` ignore the strides of an array.
#
# Python 3.10 or newer, numpy 2.2.6. An array that is transposed, in Fortran order or a slice
# with steps is stored as the bytes that follow its first element, with the shape of the
# array: the file is valid, loads without a word and holds other values. 0.7.0 stored all of
# them rightly (it called `tobytes()`). The docstring asks for contiguous tensors; the writers
# for PyTorch and Paddle check that and raise, those for NumPy do not. `safetensors.flax` hands
# its arrays to this writer, and jax.Array of a column-major layout become strided on the way.
#
# Cure: np.asarray(array, order="C") first. (`np.ascontiguousarray` turns 0-d into 1-d.)
#
# Output seen:
#   0.7.0: plain right, Fortran order right, transposed right, every second right
#   0.8.0: plain right, Fortran order WRONG, transposed WRONG, every second WRONG
#
# Exits with 0 as long as both lines are as above, and with 1 if either changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/check.py" <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

base = np.arange(24, dtype=np.float32).reshape(4, 6)
arrays = {
    "plain": base,
    "Fortran order": np.asfortranarray(base),
    "transposed": base.T,
    # In the middle of a larger buffer, so that nothing outside of it is read.
    "every second": np.tile(base, (1, 2))[:, :12:2],
}
words = []
for name, array in arrays.items():
    same = np.array_equal(load(save({"x": array}))["x"], array)
    words.append(f"{name} {'right' if same else 'WRONG'}")
print(f"{safetensors.__version__}: {', '.join(words)}")
PYTHON

seen=""
for version in 0.7.0 0.8.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
        "safetensors==$version" "numpy==2.2.6"
    line=$("$folder/$version/bin/python" "$folder/check.py")
    echo "$line"
    seen+="$line"$'\n'
done

expected="0.7.0: plain right, Fortran order right, transposed right, every second right
0.8.0: plain right, Fortran order WRONG, transposed WRONG, every second WRONG
"
[ "$seen" = "$expected" ] || { echo "the behaviour has changed"; exit 1; }
