"""What happens between noise levels, given any denoiser.

Schedules (functions of time), grids (arrays of levels, noisiest first), conversions
between parametrisations, reverse steps and unconditional sampling, all in the one
coordinate x = x0 + sigma * eps.
"""

from diffctl.diffusion.consistency import generate as generate
from diffctl.diffusion.consistency import karras_levels as karras_levels
from diffctl.diffusion.consistency import sample_consistency as sample_consistency
from diffctl.diffusion.conversions import (
    alphas_cumprod_from_sigma as alphas_cumprod_from_sigma,
)
from diffctl.diffusion.conversions import canonical_from_vp as canonical_from_vp
from diffctl.diffusion.conversions import eps_from_x0 as eps_from_x0
from diffctl.diffusion.conversions import posterior_cov_vp as posterior_cov_vp
from diffctl.diffusion.conversions import score_from_x0 as score_from_x0
from diffctl.diffusion.conversions import (
    sigma_from_alphas_cumprod as sigma_from_alphas_cumprod,
)
from diffctl.diffusion.conversions import v_from_x0 as v_from_x0
from diffctl.diffusion.conversions import vp_from_canonical as vp_from_canonical
from diffctl.diffusion.conversions import x0_from_eps as x0_from_eps
from diffctl.diffusion.conversions import x0_from_score as x0_from_score
from diffctl.diffusion.conversions import x0_from_v as x0_from_v
from diffctl.diffusion.discrete import DDPM as DDPM
from diffctl.diffusion.discrete import ddim_timesteps as ddim_timesteps
from diffctl.diffusion.discrete import respaced as respaced
from diffctl.diffusion.discrete import respaced_timesteps as respaced_timesteps
from diffctl.diffusion.grids import NoiseGrid as NoiseGrid
from diffctl.diffusion.grids import NoiseLevel as NoiseLevel
from diffctl.diffusion.grids import ddpm as ddpm
from diffctl.diffusion.grids import geometric as geometric
from diffctl.diffusion.grids import karras as karras
from diffctl.diffusion.grids import power_levels as power_levels
from diffctl.diffusion.grids import uniform as uniform
from diffctl.diffusion.grids import vp_uniform as vp_uniform
from diffctl.diffusion.integrators import EulerMaruyama as EulerMaruyama
from diffctl.diffusion.integrators import FlowEuler as FlowEuler
from diffctl.diffusion.integrators import Heun as Heun
from diffctl.diffusion.reverse import DDIM as DDIM
from diffctl.diffusion.reverse import Ancestral as Ancestral
from diffctl.diffusion.reverse import AncestralLarge as AncestralLarge
from diffctl.diffusion.reverse import AncestralLearned as AncestralLearned
from diffctl.diffusion.reverse import Bound as Bound
from diffctl.diffusion.reverse import Estimate as Estimate
from diffctl.diffusion.reverse import Euler as Euler
from diffctl.diffusion.reverse import OneCallStep as OneCallStep
from diffctl.diffusion.reverse import Renoise as Renoise
from diffctl.diffusion.reverse import ReverseStep as ReverseStep
from diffctl.diffusion.reverse import clip as clip
from diffctl.diffusion.reverse import clip_straight_through as clip_straight_through
from diffctl.diffusion.reverse import unbounded as unbounded
from diffctl.diffusion.sample import sample as sample
from diffctl.diffusion.schedules import EDM as EDM
from diffctl.diffusion.schedules import VE as VE
from diffctl.diffusion.schedules import VP as VP
from diffctl.diffusion.schedules import Schedule as Schedule
