"""What was measured and how: operators, noise models and inverse problems.

Images are (height, width, channels) in [-1, 1], one example at a time. Factories
(`create`, `from_array`, ...) check their arguments; `validate_problem` checks the rest.
"""

from diffctl.operators.base import LinearOperator as LinearOperator
from diffctl.operators.base import NoiseModel as NoiseModel
from diffctl.operators.base import Operator as Operator
from diffctl.operators.base import Problem as Problem
from diffctl.operators.base import SpectralOperator as SpectralOperator
from diffctl.operators.base import WhiteNoise as WhiteNoise
from diffctl.operators.base import simulate as simulate
from diffctl.operators.blur import Blur as Blur
from diffctl.operators.blur import CircularBlur as CircularBlur
from diffctl.operators.blur import SeparableBlur as SeparableBlur
from diffctl.operators.blur import reflect_padding as reflect_padding
from diffctl.operators.blur import zero_padding as zero_padding
from diffctl.operators.classifier import Classifier as Classifier
from diffctl.operators.compose import Composition as Composition
from diffctl.operators.compose import LinearComposition as LinearComposition
from diffctl.operators.compose import LinearStack as LinearStack
from diffctl.operators.compose import Stack as Stack
from diffctl.operators.compose import compose as compose
from diffctl.operators.compose import stack as stack
from diffctl.operators.dense import DenseMatrix as DenseMatrix
from diffctl.operators.fourier import (
    SubsampledComplexFourier as SubsampledComplexFourier,
)
from diffctl.operators.fourier import SubsampledFourier as SubsampledFourier
from diffctl.operators.fourier import column_mask as column_mask
from diffctl.operators.function import FunctionOperator as FunctionOperator
from diffctl.operators.function import LinearFunctionOperator as LinearFunctionOperator
from diffctl.operators.kernels import gaussian_kernel as gaussian_kernel
from diffctl.operators.kernels import gaussian_taps as gaussian_taps
from diffctl.operators.kernels import motion_kernel as motion_kernel
from diffctl.operators.noise import Categorical as Categorical
from diffctl.operators.noise import GaussianNoise as GaussianNoise
from diffctl.operators.noise import IndependentNoise as IndependentNoise
from diffctl.operators.noise import PoissonNoise as PoissonNoise
from diffctl.operators.pixelwise import Identity as Identity
from diffctl.operators.pixelwise import Mask as Mask
from diffctl.operators.resampling import (
    BicubicSuperResolution as BicubicSuperResolution,
)
from diffctl.operators.resampling import BlockAverage as BlockAverage
from diffctl.operators.separable import Separable as Separable
from diffctl.operators.truncated import Truncated as Truncated
from diffctl.operators.validation import validate_problem as validate_problem
