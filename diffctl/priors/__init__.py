"""Knowledge about a clean signal: exact priors, networks, classical regularisers."""

from diffctl.priors.adapters import CycleSpinning as CycleSpinning
from diffctl.priors.adapters import DenoiserProx as DenoiserProx
from diffctl.priors.adapters import RegularizedByDenoising as RegularizedByDenoising
from diffctl.priors.gaussian import GaussianPrior as GaussianPrior
from diffctl.priors.mixture import GaussianMixturePrior as GaussianMixturePrior
from diffctl.priors.network import NetworkPrior as NetworkPrior
from diffctl.priors.preconditioning import EDMPreconditioning as EDMPreconditioning
from diffctl.priors.regularizers import NonLocalLowRank as NonLocalLowRank
from diffctl.priors.regularizers import NonLocalMeans as NonLocalMeans
from diffctl.priors.regularizers import NuclearNorm as NuclearNorm
from diffctl.priors.regularizers import Orthonormal as Orthonormal
from diffctl.priors.regularizers import Quadratic as Quadratic
from diffctl.priors.regularizers import Sparsity as Sparsity
from diffctl.priors.regularizers import TotalVariation as TotalVariation
from diffctl.priors.regularizers import uniform_threshold as uniform_threshold
from diffctl.priors.regularizers import weighted_threshold as weighted_threshold
