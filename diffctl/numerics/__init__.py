"""Linear algebra and differentiation that know nothing of diffusion.

Everything takes functions and arrays of any shape, works under jit, vmap, grad and jvp,
and keeps the precision of its input.
"""

from diffctl.numerics.adjoint import adjoint_of as adjoint_of
from diffctl.numerics.adjoint import linear_adjoint as linear_adjoint
from diffctl.numerics.batching import chunked_vmap as chunked_vmap
from diffctl.numerics.batching import computed_where as computed_where
from diffctl.numerics.descent import Descent as Descent
from diffctl.numerics.krylov import conjugate_gradient as conjugate_gradient
from diffctl.numerics.krylov import least_squares_cg as least_squares_cg
from diffctl.numerics.lowrank import psd_factor as psd_factor
from diffctl.numerics.lowrank import truncate as truncate
from diffctl.numerics.lowrank import woodbury_core as woodbury_core
from diffctl.numerics.lowrank import woodbury_solve as woodbury_solve
from diffctl.numerics.randomized import EigenFactors as EigenFactors
from diffctl.numerics.randomized import SingularFactors as SingularFactors
from diffctl.numerics.randomized import gauss_newton_hvp as gauss_newton_hvp
from diffctl.numerics.randomized import randomized_eigh as randomized_eigh
from diffctl.numerics.randomized import randomized_svd as randomized_svd
from diffctl.numerics.randomized import range_finder as range_finder
from diffctl.numerics.safe import safe_divide as safe_divide
from diffctl.numerics.safe import safe_norm as safe_norm
from diffctl.numerics.safe import safe_sqrt as safe_sqrt
from diffctl.numerics.safe import squared_norm as squared_norm
from diffctl.numerics.vectors import from_vector as from_vector
from diffctl.numerics.vectors import to_vector as to_vector
