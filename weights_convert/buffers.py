"""The noise schedule that a file holds beside its network, against the settings."""

from collections.abc import Mapping

import numpy as np

from diffctl.priors.preconditioning import DiscretePreconditioning, from_json
from weights_convert.convert import Conversion, Tensor
from weights_convert.families.base import ConfigError

_NAME = "betas"
_TOLERANCE = 1e-3  # of the largest: the shapes of schedules differ by far more


def check_schedule(conversion: Conversion, beside: Mapping[str, Tensor]) -> None:
    """Compare the variances in a file with those that the settings give.

    Training programs that put a network into a diffusion keep `betas` as a buffer.

    Args:
        conversion: of the network.
        beside: every tensor of the state dict in which it was found.

    Raises:
        ConfigError: they are not the same.
    """
    described = conversion.plan.description.get("preconditioning")
    rule = from_json(described) if described else None
    if not isinstance(rule, DiscretePreconditioning):
        return
    expected = rule.betas.values()
    for name, tensor in beside.items():
        is_table = name.rpartition(".")[2] == _NAME and len(tensor.shape) == 1
        if not is_table or name in conversion.tensors:
            continue
        found = np.asarray(tensor.read(), np.float64)
        limit = _TOLERANCE * np.max(expected)
        if found.shape != expected.shape or not np.all(
            np.abs(found - expected) < limit
        ):
            raise ConfigError(
                f"the file's own {name} are {_ends(found)}; the settings make them "
                f"{_ends(expected)}. Correct the noise schedule in the configuration."
            )


def _ends(betas: np.ndarray) -> str:
    if not betas.size:
        return "none"
    return f"{betas.size} from {betas[0]:.3g} to {betas[-1]:.3g}"
