"""Knowledge about a clean signal: exact priors, which are the oracles of the tests."""

from diffctl.priors.gaussian import GaussianPrior as GaussianPrior
from diffctl.priors.mixture import GaussianMixturePrior as GaussianMixturePrior
from diffctl.priors.network import NetworkPrior as NetworkPrior
from diffctl.priors.preconditioning import EDMPreconditioning as EDMPreconditioning
