"""Classical regularisers: knowledge about a signal without a trained network."""

from diffctl.priors.regularizers.low_rank import NonLocalLowRank as NonLocalLowRank
from diffctl.priors.regularizers.low_rank import NuclearNorm as NuclearNorm
from diffctl.priors.regularizers.low_rank import uniform_threshold as uniform_threshold
from diffctl.priors.regularizers.low_rank import (
    weighted_threshold as weighted_threshold,
)
from diffctl.priors.regularizers.non_local_means import NonLocalMeans as NonLocalMeans
from diffctl.priors.regularizers.quadratic import Quadratic as Quadratic
from diffctl.priors.regularizers.sparsity import Sparsity as Sparsity
from diffctl.priors.regularizers.total_variation import TotalVariation as TotalVariation
from diffctl.priors.regularizers.transforms import Orthonormal as Orthonormal
