"""What is trained, by what loss, and which solvers use it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import optax
from flax import nnx

from diffctl.core import Solver
from diffctl.diffusion import karras
from diffctl.nets import Architecture
from diffctl.numerics import Descent
from diffctl.operators import Problem
from diffctl.priors import (
    AutoencoderPrior,
    ConditionalNetwork,
    EnergyPrior,
    FlowPrior,
    GeneratorPrior,
    LatentNetworkPrior,
    RegressionNetwork,
)
from diffctl.solvers import (
    DAPS,
    GMLDPS,
    LDPS,
    PSLD,
    STSL,
    AmortisedMean,
    ConditionalSampling,
    DensityChain,
    DensityMAP,
    FlashDiffusion,
    FlowMAP,
    InLatentSpace,
    JointMAP,
    Langevin,
    LatentChain,
    LatentMAP,
    NormalSurrogate,
    ReSample,
    pinv_features,
    pinv_start,
)
from diffctl.solvers.costs import squared_residual
from diffctl.training import (
    AdversarialLoss,
    Adversaries,
    AutoencoderLoss,
    ConditionalDenoisingLoss,
    Dataset,
    FlowLoss,
    LatentDiffusionLoss,
    RegressionLoss,
    ScoreMatchingLoss,
    Simulation,
    cosine,
    create_state,
    train,
)

LATENT = 20


@dataclass(frozen=True)
class Model:
    """A prior that is trained here.

    Attributes:
        prior: its class.
        architecture: `architecture(shape)` of its network.
        objective: `objective(problem)`: the loss; amortised networks are trained on
            simulations of the operator and noise of a problem.
        solvers: those that use it, by name.
        peak_rate: of Adam.
    """

    prior: Any
    architecture: Callable[[tuple[int, ...]], Architecture]
    objective: Callable[[Problem], Any]
    solvers: Mapping[str, Solver]
    peak_rate: float = 2e-3


def fit(
    model: Model,
    problem: Problem,
    dataset: Dataset,
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[Any, jax.Array], None],
) -> Any:
    """Train a model and return it as a prior; `on_step` is that of `train`."""
    shape = dataset.images.shape[1:]
    key = jax.random.key(seed)
    prior = model.prior.create(model.architecture(shape), shape, key=key)
    schedule = cosine(
        model.peak_rate, warmup=min(50, num_steps // 4), num_steps=num_steps
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.8, b2=0.99)
    )
    state = train(
        create_state(trainable(prior, shape, key), optimiser),
        dataset,
        model.objective(problem),
        optimiser,
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        on_step=on_step,
    )
    net = state.ema.generator if isinstance(state.ema, Adversaries) else state.ema
    return model.prior(net=net, architecture=prior.architecture, shape=shape)


def trainable(prior: Any, shape: tuple[int, ...], key: jax.Array) -> Any:
    """Return what is trained: the network, and its critic if it is a generator."""
    if not isinstance(prior, GeneratorPrior):
        return prior.net
    critic = _scalar(shape).build(nnx.Rngs(params=jax.random.fold_in(key, 1)))
    return Adversaries(generator=prior.net, critic=critic)


def _image(shape: tuple[int, ...]) -> dict[str, int]:
    return {"size": shape[0], "channels": shape[2]}


def _scalar(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("small_classifier", classes=1, **_image(shape))


def _decoder(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("small_decoder", latent=LATENT, **_image(shape))


def _autoencoder(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("small_autoencoder", latent=LATENT, **_image(shape))


def _latent_diffusion(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("small_latent_diffusion", latent=LATENT, **_image(shape))


def _flow(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("coupling_flow", size=shape[0] * shape[1] * shape[2])


def _regressor(shape: tuple[int, ...]) -> Architecture:
    return Architecture.of("small_regressor", channels=shape[2])


def _denoiser(shape: tuple[int, ...]) -> Architecture:
    fields = {"widths": (24, 32), "blocks": (1, 1), "embedding": 64}
    return Architecture.of("unet", channels=2 * shape[2], **fields)


def _pairs(problem: Problem) -> Simulation:
    return Simulation(
        operator=problem.operator, noise=problem.noise, features=pinv_features
    )


_RESTARTS: dict[str, Any] = {
    "num_steps": 300,
    "num_restarts": 4,
    "descent": Descent.adam(0.05),
}
_PIXELS: dict[str, Any] = {
    "num_steps": 500,
    "descent": Descent.adam(0.02),
    "start_from": pinv_start,
}


def _latent_solvers() -> dict[str, Solver]:
    """Return solvers whose steps were chosen on digits, two or three values each."""
    grid = karras(200, sigma_min=0.02, sigma_max=20.0)
    ldps = LDPS(grid=grid, guidance_scale=0.5)
    fitted = replace(ldps, cost=squared_residual)
    resample = ReSample.default(karras(100, sigma_min=0.02, sigma_max=20.0))
    resample = replace(
        resample,
        pixels=replace(resample.pixels, num_steps=300),
        latents=replace(resample.latents, num_steps=100),
    )
    daps = DAPS(
        grid=karras(50, sigma_min=0.1, sigma_max=10.0),
        law=NormalSurrogate(signal_std=1.0),
        sampler=Langevin(num_steps=40),
    )
    return {
        "ldps": ldps,
        "gml_dps": GMLDPS(grid=grid, guidance_scale=0.5, gluing_scale=0.03),
        "psld": PSLD(grid=grid, guidance_scale=0.5, gluing_scale=0.03),
        "stsl": STSL(guided=fitted, trace_scale=0.01),
        "resample": resample,
        "latent_daps": InLatentSpace(inner=daps),
        "flash_ldps": FlashDiffusion(inner=ldps),
        "flash_resample": FlashDiffusion(inner=resample),
    }


MODELS: Mapping[str, Model] = {
    "gan": Model(
        prior=GeneratorPrior,
        architecture=_decoder,
        objective=lambda problem: AdversarialLoss(latent=LATENT),
        solvers={"latent_map": LatentMAP(**_RESTARTS)},
        peak_rate=1e-3,
    ),
    "vae": Model(
        prior=AutoencoderPrior,
        architecture=_autoencoder,
        objective=lambda problem: AutoencoderLoss(),
        solvers={
            "latent_map": LatentMAP(**_RESTARTS),
            "latent_chain": LatentChain(num_steps=1000),
            "joint_map": JointMAP(),
        },
    ),
    "flow": Model(
        prior=FlowPrior,
        architecture=_flow,
        objective=lambda problem: FlowLoss(),
        solvers={
            "latent_map": LatentMAP(start_scale=0.0, num_steps=500),
            "flow_map": FlowMAP(start_scale=0.0, num_steps=500),
        },
    ),
    "energy": Model(
        prior=EnergyPrior,
        architecture=_scalar,
        objective=lambda problem: ScoreMatchingLoss(),
        solvers={
            "density_map": DensityMAP(**_PIXELS),
            "density_chain": DensityChain(num_steps=1000, start_from=pinv_start),
        },
    ),
    "latent_diffusion": Model(
        prior=LatentNetworkPrior,
        architecture=_latent_diffusion,
        objective=lambda problem: LatentDiffusionLoss(pairs=_pairs(problem)),
        solvers=_latent_solvers(),
    ),
    "regression": Model(
        prior=RegressionNetwork,
        architecture=_regressor,
        objective=lambda problem: RegressionLoss(pairs=_pairs(problem)),
        solvers={"amortised_mean": AmortisedMean()},
    ),
    "denoiser": Model(
        prior=ConditionalNetwork,
        architecture=_denoiser,
        objective=lambda problem: ConditionalDenoisingLoss(pairs=_pairs(problem)),
        solvers={
            "conditional": ConditionalSampling(
                grid=karras(30, sigma_min=0.02, sigma_max=20.0)
            )
        },
    ),
}
