"""Knowledge about a clean signal: exact priors, networks, classical regularisers."""

from diffctl.priors.adapters import CycleSpinning as CycleSpinning
from diffctl.priors.adapters import DenoiserProx as DenoiserProx
from diffctl.priors.adapters import RegularizedByDenoising as RegularizedByDenoising
from diffctl.priors.consistency import (
    ConsistencyNetworkPrior as ConsistencyNetworkPrior,
)
from diffctl.priors.consistency import (
    GaussianConsistencyPrior as GaussianConsistencyPrior,
)
from diffctl.priors.gaussian import GaussianPrior as GaussianPrior
from diffctl.priors.generative.amortised import ConditionalFlow as ConditionalFlow
from diffctl.priors.generative.amortised import ConditionalNetwork as ConditionalNetwork
from diffctl.priors.generative.amortised import RegressionNetwork as RegressionNetwork
from diffctl.priors.generative.latent_diffusion import (
    LatentNetworkPrior as LatentNetworkPrior,
)
from diffctl.priors.generative.networks import AutoencoderPrior as AutoencoderPrior
from diffctl.priors.generative.networks import EnergyPrior as EnergyPrior
from diffctl.priors.generative.networks import FlowPrior as FlowPrior
from diffctl.priors.generative.networks import GeneratorPrior as GeneratorPrior
from diffctl.priors.generative.smoothed import SmoothedPrior as SmoothedPrior
from diffctl.priors.isotropic_mixture import (
    IsotropicMixturePrior as IsotropicMixturePrior,
)
from diffctl.priors.latent import KLAutoencoder as KLAutoencoder
from diffctl.priors.latent import LatentDiffusionPrior as LatentDiffusionPrior
from diffctl.priors.latent import LinearAutoencoder as LinearAutoencoder
from diffctl.priors.latent import SeverityEncoderPrior as SeverityEncoderPrior
from diffctl.priors.latent import severity_loss as severity_loss
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
