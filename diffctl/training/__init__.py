"""Training of the small networks that ship: objectives, data, one resumable loop."""

from diffctl.training.amortised import (
    ConditionalDenoisingLoss as ConditionalDenoisingLoss,
)
from diffctl.training.amortised import ConditionalFlowLoss as ConditionalFlowLoss
from diffctl.training.amortised import RegressionLoss as RegressionLoss
from diffctl.training.amortised import Simulation as Simulation
from diffctl.training.data import Dataset as Dataset
from diffctl.training.evaluation import (
    classification_accuracy as classification_accuracy,
)
from diffctl.training.evaluation import denoising_error as denoising_error
from diffctl.training.generative import AdversarialLoss as AdversarialLoss
from diffctl.training.generative import Adversaries as Adversaries
from diffctl.training.generative import AutoencoderLoss as AutoencoderLoss
from diffctl.training.generative import FlowLoss as FlowLoss
from diffctl.training.generative import ScoreMatchingLoss as ScoreMatchingLoss
from diffctl.training.latent import LatentDiffusionLoss as LatentDiffusionLoss
from diffctl.training.loop import TrainState as TrainState
from diffctl.training.loop import create_state as create_state
from diffctl.training.loop import train as train
from diffctl.training.objectives import ClassificationLoss as ClassificationLoss
from diffctl.training.objectives import DenoisingLoss as DenoisingLoss
from diffctl.training.schedules import constant as constant
from diffctl.training.schedules import cosine as cosine
