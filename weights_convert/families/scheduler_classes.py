"""What the schedulers of huggingface/diffusers have for settings, and which are known.

Files may carry settings of other schedulers that their own does not read.
"""

from collections.abc import Mapping
from typing import Any

from weights_convert.families.settings import NAMING, SAMPLING, Only, Settings, names

_NAMES = names("_class_name _diffusers_version _name_or_path _use_default_values")
_SAMPLER = names(
    "clip_sample clip_sample_range thresholding dynamic_thresholding_ratio "
    "sample_max_value timestep_spacing steps_offset set_alpha_to_one skip_prk_steps "
    "eta solver_order solver_type algorithm_type lower_order_final euler_at_final "
    "final_sigmas_type use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas lambda_min_clipped predict_x0 disable_corrector solver_p "
    "predictor_order corrector_order tau_func interpolation_type noise_sampler_seed "
    "flow_shift use_dynamic_shifting time_shift_type shift_terminal sigma_schedule rho "
    "s_noise clip_denoised timestep_values tensor_format"
)
_BETAS = names("beta_start beta_end beta_schedule trained_betas")
_RANGE = names("sigma_min sigma_max")
_UNREAD = "schedulers of this kind do not read it"
_FLOW = "it would need a preconditioning for the path (1 - sigma) x0 + sigma eps"

DISCRETE_SETTINGS = Settings(
    owner="scheduler of discrete levels",
    read=_BETAS
    | names("_class_name num_train_timesteps prediction_type predict_epsilon")
    | names("variance_type"),
    only={
        "rescale_betas_zero_snr": Only(
            (False, None),
            "it ends at an infinite noise level, which a denoiser in the coordinate "
            "x0 + sigma * eps cannot have",
        ),
        "timestep_type": Only(
            ("discrete", None),
            "it would need a preconditioning whose time label is ln(sigma) / 4 and "
            "whose input has variance one",
        ),
        "use_flow_sigmas": Only((False, None), _FLOW),
    },
    harmless={
        NAMING: _NAMES - {"_class_name"},
        SAMPLING: _SAMPLER | _RANGE,  # where its sampler starts and ends
        _UNREAD: names("sigma_data"),
    },
)
EDM_SETTINGS = Settings(
    owner="scheduler of EDM",
    read=_RANGE | names("_class_name sigma_data"),
    only={
        "prediction_type": Only(
            ("epsilon",), "it would need a preconditioning with another sign of c_out"
        )
    },
    harmless={
        NAMING: _NAMES - {"_class_name"},
        SAMPLING: _SAMPLER | {"num_train_timesteps"},
        _UNREAD: _BETAS | names("variance_type"),
    },
)
CONSISTENCY_SETTINGS = Settings(
    owner="scheduler of consistency models",
    read=EDM_SETTINGS.read,
    harmless=dict(EDM_SETTINGS.harmless)
    | {_UNREAD: _BETAS | names("variance_type prediction_type")},
)

# Schedulers of discrete levels, with those of their defaults that are not usual.
_USUAL = (
    "DDPM DDPMParallel DDIM DDIMParallel DDIMInverse PNDM LMSDiscrete EulerDiscrete "
    "EulerAncestralDiscrete DEISMultistep DPMSolverMultistep DPMSolverMultistepInverse "
    "DPMSolverSinglestep UniPCMultistep SASolver RePaint"
)
_LESS_NOISE = "HeunDiscrete KDPM2Discrete KDPM2AncestralDiscrete DPMSolverSDE"
_LESS = {"beta_start": 0.00085, "beta_end": 0.012}
DISCRETE: Mapping[str, Mapping[str, Any]] = {
    **{f"{name}Scheduler": {} for name in _USUAL.split()},
    **{f"{name}Scheduler": _LESS for name in _LESS_NOISE.split()},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
}
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
CONSISTENCY = ("CMStochasticIterativeScheduler",)
_DISTILLED = "its network is distilled for few steps and no conditional mean"
# Schedulers that cannot be converted, and what they would need.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
            *("FlowMatchLCMScheduler", "FlowMapEulerDiscreteScheduler"),
        ),
        _FLOW,
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), _DISTILLED),
    **dict.fromkeys(
        ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
        "it would need a schedule whose signal-to-noise ratio is shifted",
    ),
    "ScoreSdeVeScheduler": (
        "it would need a preconditioning whose time label is sigma, on a U-Net that "
        "divides its output by sigma"
    ),
    "ScoreSdeVpScheduler": "it leaves the network's time label open",
    "KarrasVeScheduler": (
        "it would need a preconditioning of images moved to [0, 1] with the time label "
        "sigma / 2"
    ),
    "IPNDMScheduler": (
        "it would need a schedule of sines with time labels between 0 and 1"
    ),
    "DDPMWuerstchenScheduler": (
        "it would need the continuous cosine schedule with time labels between 0 and 1"
    ),
    "CosineDPMSolverMultistepScheduler": (
        "it would need a preconditioning with the time label 2 atan(sigma) / pi"
    ),
    "SCMScheduler": "it would need the preconditioning of TrigFlow",
}
