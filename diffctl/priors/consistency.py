"""Consistency models as priors: a network, and the exact one of a Gaussian.

    f(x, sigma) = c_skip x + c_out F(c_in x, c_noise),   f(x, sigma_min) = x

with the coefficients of `ConsistencyPreconditioning`. f is constant along trajectories
of the probability-flow ODE: f(x_sigma, sigma) = x_{sigma_min}. Generation is in
`diffusion.consistency`.
"""

from pathlib import Path
from typing import Any

import jax

from diffctl.core import ConsistencyPrior
from diffctl.priors.gaussian import GaussianPrior
from diffctl.priors.network import NetworkPrior
from diffctl.priors.preconditioning import ConsistencyPreconditioning
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class ConsistencyNetworkPrior(ConsistencyPrior):
    """A network with the consistency parameterisation (Song et al., ICML 2023).

    Cost of `jump`: one network forward.

    Args:
        network: the network; its `denoise` is f, not a conditional mean.
    """

    network: NetworkPrior

    @classmethod
    def create(cls, network: NetworkPrior) -> "ConsistencyNetworkPrior":
        """Wrap a network.

        Raises:
            ValueError: its preconditioning is not that of a consistency model.
        """
        rule = network.preconditioning
        if not isinstance(rule, ConsistencyPreconditioning):
            raise ValueError(
                f"the network has {type(rule).__name__}; expected "
                "ConsistencyPreconditioning. A denoiser is a prior as it is."
            )
        return cls(network=network)

    @classmethod
    def restore(
        cls, folder: str | Path, *, dtype: Any = None
    ) -> "ConsistencyNetworkPrior":
        """Load a network that `weights_convert` wrote (family `consistency`).

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the network is not a consistency model.
        """
        return cls.create(NetworkPrior.restore(folder, dtype=dtype))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.network.shape

    @property
    def sigma_min(self) -> Any:
        rule = self.network.preconditioning
        assert isinstance(rule, ConsistencyPreconditioning)
        return rule.sigma_min

    @property
    def sigma_max(self) -> Any:
        return self.network.sigma_max

    def jump(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.network.denoise(x, sigma)


@pytree_dataclass
class GaussianConsistencyPrior(ConsistencyPrior):
    """The exact consistency function of a Gaussian, the oracle of the tests.

    Per eigen-direction of variance s^2, with mean m:
    f(x, sigma) = m + sqrt((s^2 + sigma_min^2) / (s^2 + sigma^2)) (x - m).
    """

    gaussian: GaussianPrior
    sigma_min: Any = 0.002
    sigma_max: Any = 80.0

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.gaussian.shape

    def jump(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.gaussian.flow(x, sigma, self.sigma_min)
