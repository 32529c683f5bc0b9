"""Flax NNX architectures for one example, channels last, parameters only."""

from diffctl.nets.architecture import Architecture as Architecture
from diffctl.nets.classifier import SmallClassifier as SmallClassifier
from diffctl.nets.unet import UNet as UNet
