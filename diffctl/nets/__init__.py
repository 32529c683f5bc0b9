"""Flax NNX architectures for one example, channels last, parameters only."""

from diffctl.nets.adm import ADMClassifier as ADMClassifier
from diffctl.nets.adm import ADMUNet as ADMUNet
from diffctl.nets.architecture import Architecture as Architecture
from diffctl.nets.autoencoder import AutoencoderKL as AutoencoderKL
from diffctl.nets.classifier import SmallClassifier as SmallClassifier
from diffctl.nets.ddpm import DDPMUNet as DDPMUNet
from diffctl.nets.edm import EDMADMUNet as EDMADMUNet
from diffctl.nets.edm import SongUNet as SongUNet
from diffctl.nets.generative import CouplingFlow as CouplingFlow
from diffctl.nets.generative import SmallAutoencoder as SmallAutoencoder
from diffctl.nets.generative import SmallDecoder as SmallDecoder
from diffctl.nets.latent import SmallLatentDiffusion as SmallLatentDiffusion
from diffctl.nets.mnist import DigitClassifier as DigitClassifier
from diffctl.nets.regressor import SmallRegressor as SmallRegressor
from diffctl.nets.unet import UNet as UNet
