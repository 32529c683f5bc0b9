"""The noise schedule that a file holds beside its network, against the settings."""

from collections.abc import Mapping

import numpy as np

from diffctl.priors.preconditioning import DiscretePreconditioning, from_json
from weights_convert.convert import Conversion, Tensor
from weights_convert.families.base import ConfigError

_NAME = "betas"
# Optimisers call two to four decay rates so; no schedule of any use is as short.
_MOST_RATES = 10
_TOLERANCE = 1e-3  # of the largest: the shapes of schedules differ by far more


def check_schedule(
    conversion: Conversion, beside: Mapping[str, Tensor], prefix: str
) -> None:
    """Compare the variances in a file with those that the settings give.

    Training programs that put a network into a diffusion keep `betas` as a buffer of
    the diffusion, which is around the network. Those in other places belong to others.

    Args:
        conversion: of the network.
        beside: every tensor of the state dict in which it was found.
        prefix: of the network in it.

    Raises:
        ConfigError: they are not the same.
    """
    described = conversion.plan.description.get("preconditioning")
    rule = from_json(described) if described else None
    if not isinstance(rule, DiscretePreconditioning):
        return
    expected = rule.betas.values()
    for name in _around(prefix):
        tensor = None if name in conversion.tensors else beside.get(name)
        if tensor is None or not _is_schedule(tensor.shape, len(expected)):
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


def _around(prefix: str) -> list[str]:
    """Return what betas are called at a prefix and at those around it."""
    parts = prefix.split(".")[:-1]
    return [".".join([*parts[:n], _NAME]) for n in range(len(parts) + 1)]


def _is_schedule(shape: tuple[int, ...], steps: int) -> bool:
    """Return whether betas have a length that those of a schedule can have."""
    return len(shape) == 1 and (shape[0] == steps or shape[0] > _MOST_RATES)


def _ends(betas: np.ndarray) -> str:
    return f"{betas.size} from {betas[0]:.3g} to {betas[-1]:.3g}"
