"""Numbers that say how good a reconstruction is; never used by solvers."""

from diffctl.metrics.chains import bulk_ess as bulk_ess
from diffctl.metrics.chains import split_r_hat as split_r_hat
from diffctl.metrics.classification import accuracy as accuracy
from diffctl.metrics.image import mse as mse
from diffctl.metrics.image import psnr as psnr
from diffctl.metrics.image import ssim as ssim
