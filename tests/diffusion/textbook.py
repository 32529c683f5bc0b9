"""The steps under test, and their textbook formulas in x_t = scale * x."""

import numpy as np

from diffctl.diffusion import (
    DDIM,
    VP,
    Ancestral,
    AncestralLarge,
    AncestralLearned,
    Euler,
    EulerMaruyama,
    FlowEuler,
    Renoise,
)
from diffctl.priors import GaussianPrior

FRACTION = 0.3
STEPS = {
    "euler": Euler(),
    "ddim": DDIM(eta=0.6),
    "ddim_1": DDIM(eta=1.0),
    "ancestral": Ancestral(),
    "large": AncestralLarge(),
    "learned": AncestralLearned(),
    "renoise": Renoise(eta=0.7),
    "flow": FlowEuler(schedule=VP()),
    "sde": EulerMaruyama(schedule=VP()),
}


def gaussian(dim=3):
    root = np.random.default_rng(5).normal(size=(dim, dim)) / 2
    mean = np.linspace(-0.5, 0.5, dim)
    return GaussianPrior.from_moments(mean, root @ root.T + 0.05 * np.eye(dim))


def textbook(name, x, x0_hat, z, levels):
    """One step in x_t coordinates: `(x_s, coefficient of the score in x_s)`.

    `levels` holds alphas_cumprod at t and s, and beta(t), dt of the VP schedule.
    """
    ab_t, ab_s, beta, dt = levels
    step, eta = (
        1 - ab_t / ab_s,
        {"ddim": 0.6, "ddim_1": 1.0, "renoise": 0.7}.get(name, 0),
    )
    eps = (x - np.sqrt(ab_t) * x0_hat) / np.sqrt(1 - ab_t)
    score = -eps / np.sqrt(1 - ab_t)
    if name in ("euler", "ddim", "ddim_1"):
        c1 = eta * np.sqrt((1 - ab_s) / (1 - ab_t)) * np.sqrt(step)
        c2 = np.sqrt(1 - ab_s - c1**2)
        gamma = np.sqrt(ab_s / ab_t) * (1 - ab_t) - c2 * np.sqrt(1 - ab_t)
        return np.sqrt(ab_s) * x0_hat + c2 * eps + c1 * z, gamma
    if name == "renoise":
        sigma_t, sigma_s = np.sqrt((1 - ab_t) / ab_t), np.sqrt((1 - ab_s) / ab_s)
        move = x0_hat + sigma_s * (np.sqrt(1 - eta**2) * eps + eta * z)
        gamma = sigma_t**2 - sigma_s * sigma_t * np.sqrt(1 - eta**2)
        return np.sqrt(ab_s) * move, np.sqrt(ab_s * ab_t) * gamma
    if name == "flow":
        return x - (-beta * x / 2 - beta * score / 2) * dt, beta * dt / 2
    if name == "sde":
        moved = x - (-beta * x / 2 - beta * score) * dt
        return moved + np.sqrt(beta * dt) * z, beta * dt
    small = step * (1 - ab_s) / (1 - ab_t)
    variance = {
        "ancestral": small,
        "large": step,
        "learned": np.exp(FRACTION * np.log(step) + (1 - FRACTION) * np.log(small)),
    }[name]
    mean = np.sqrt(ab_s) * step / (1 - ab_t) * x0_hat
    mean += np.sqrt(1 - step) * (1 - ab_s) / (1 - ab_t) * x
    return mean + np.sqrt(variance) * z, step / np.sqrt(1 - step)
