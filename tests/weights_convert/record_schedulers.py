"""Record what schedulers of huggingface/diffusers make of a network's output.

    cd tests/weights_convert && python record_schedulers.py > schedulers.json

needs torch, scipy and diffusers (0.42.1 wrote the file). Every entry has a scheduler's
configuration, a noise level, an image x = x0 + sigma eps of three numbers, and the
estimate of x0 that the scheduler computes with the network of `network`.
"""

import json
import sys
from typing import Any

X = (0.7, -1.9, 3.2)
NUM_STEPS = 10
INDEX = 4  # of the time step; schedulers of order two have their own at odd ones
DISTANT = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
TABLE = {"trained_betas": [0.01, 0.02, 0.05] * 10, "num_train_timesteps": 30}
V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"beta_schedule": "sigmoid", "num_train_timesteps": 400}),
    ("DDPMScheduler", SAMPLE | {"variance_type": "fixed_large"}),
    ("DDPMScheduler", V | TABLE),
    ("DDPMParallelScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    ("DDIMScheduler", DISTANT),
    ("DDIMScheduler", V | {"beta_schedule": "squaredcos_cap_v2"}),
    ("DDIMParallelScheduler", SAMPLE),
    ("PNDMScheduler", DISTANT),
    ("PNDMScheduler", V),
    ("LMSDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", DISTANT),
    ("EulerDiscreteScheduler", V),
    ("EulerDiscreteScheduler", {"prediction_type": "original_sample"}),
    ("EulerAncestralDiscreteScheduler", V | {"beta_schedule": "squaredcos_cap_v2"}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", V),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", SAMPLE),
    ("DPMSolverMultistepInverseScheduler", {}),
    ("DPMSolverSinglestepScheduler", V),
    ("DEISMultistepScheduler", {}),
    ("UniPCMultistepScheduler", DISTANT | V),
    ("SASolverScheduler", {}),
    ("RePaintScheduler", {"beta_schedule": "sigmoid"}),
    ("UnCLIPScheduler", {}),
    ("EDMEulerScheduler", {"sigma_data": 0.7, "sigma_max": 60.0}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("CMStochasticIterativeScheduler", {"sigma_data": 0.4, "sigma_min": 0.01}),
]


def network(z: Any, label: Any, sin: Any) -> Any:
    """Return a number for every entry that depends on input and time label."""
    return 0.4 * z - 0.2 + 0.3 * sin(label / 300 + 1)


def _record(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    import diffusers
    import torch

    scheduler = getattr(diffusers, name)(**changes)
    scheduler.set_timesteps(NUM_STEPS)
    t = scheduler.timesteps[INDEX]
    x = torch.tensor(X).reshape(1, 3, 1, 1)
    seen, sample = scheduler.scale_model_input(x, t), x
    if torch.equal(seen, x):  # the scheduler's sample is x / sqrt(1 + sigma^2)
        kept = scheduler.alphas_cumprod[int(t)]
        sigma, sample = ((1 - kept) / kept).sqrt(), x * kept.sqrt()
        seen = sample
    else:
        sigma = scheduler.sigmas[scheduler.step_index]
    out = network(seen, t, torch.sin)
    estimate = _estimate(scheduler, out, t, sample)
    return {
        "scheduler": {"_class_name": name} | changes,
        "sigma": float(sigma),
        "x": list(X),
        "x0": [float(value) for value in estimate.flatten()],
    }


def _estimate(scheduler: Any, out: Any, t: Any, sample: Any) -> Any:
    """Return the scheduler's estimate of x0, neither clipped nor noised."""
    import torch

    off = {"clip_sample": False, "clip_denoised": False, "s_noise": 0.0}
    known = {name: off[name] for name in off if name in scheduler.config}
    scheduler.register_to_config(**known)
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(t)
        found = scheduler.convert_model_output(out, sample=sample)
        if type(scheduler).__name__ != "DEISMultistepScheduler":
            return found
        kept = scheduler.alphas_cumprod[int(t)]  # it computes with the noise instead
        return (sample - (1 - kept).sqrt() * found) / kept.sqrt()
    if hasattr(scheduler, "_get_prev_sample"):  # of PNDM, to the clean end
        scheduler.final_alpha_cumprod = torch.tensor(1.0)
        return scheduler._get_prev_sample(sample, t, -1, out)
    if type(scheduler).__name__ == "RePaintScheduler":
        nothing = torch.zeros_like(sample)
        return scheduler.step(out, t, sample, nothing, nothing).pred_original_sample
    step = scheduler.step(out, t, sample)
    found = getattr(step, "pred_original_sample", None)
    return step.prev_sample if found is None else found  # consistency models jump


if __name__ == "__main__":
    json.dump([_record(*case) for case in CASES], sys.stdout, indent=1)
