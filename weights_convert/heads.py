"""The functions of converted networks that recorded references know, by name.

Each takes the network, one input (the one that derivatives are taken by) and the other
arrays of one example.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from diffctl.diffusion.betas import Betas
from diffctl.priors.network import apply_preconditioned
from diffctl.priors.preconditioning import (
    Coefficients,
    ConsistencyPreconditioning,
    EDMPreconditioning,
    NearestNoisePrediction,
    Preconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from diffctl.pytree import pytree_dataclass

Arrays = dict[str, Any]
Function = Callable[[Any, Any, Arrays], Any]  # network, input, other arrays -> output


class Head(NamedTuple):
    """A function of a network, the input it is differentiated by, and a preparation.

    `prepare` derives further arrays (whole batches) from those of the reference.
    """

    function: Function
    input: str
    prepare: Callable[[Arrays], Arrays] = dict


def _labels(rest: Arrays) -> dict[str, Any]:
    for name in ("class_labels", "y"):
        if name in rest:
            return {"label": rest[name]}
    return {}


def _noise(rest: Arrays) -> Any:
    return rest["noise_labels"] if "noise_labels" in rest else rest["t"]


def _raw(net: Any, x: Any, rest: Arrays) -> Any:
    return net(x, _noise(rest), **_labels(rest))


def _controlled(net: Any, u: Any, rest: Arrays) -> Any:
    return net(rest["x"], rest["t"], control=u, **_labels(rest))


@pytree_dataclass
class Given(Preconditioning):
    """Coefficients computed beforehand: one compiled program serves every rule."""

    coefficients: Coefficients

    def __call__(self, sigma: Any) -> Coefficients:
        return self.coefficients


def _preconditioned(net: Any, x: Any, rest: Arrays) -> Any:
    rule = Given(coefficients=rest["coefficients"])
    labels = {name: rest[name] for name in ("label", "augment") if name in rest}
    return apply_preconditioned(
        lambda x, noise: net(x, noise, **labels), rule, x, rest["sigma"]
    )


def _prepare(rule: Preconditioning, rest: Arrays, label: bool, augment: bool) -> Arrays:
    more = _labels(rest) if label else {}
    if augment:
        more = more | {"augment": rest["augment_labels"]}
    return rest | more | {"coefficients": jax.vmap(rule)(rest["sigma"])}


def _logits(net: Any, x: Any, rest: Arrays) -> Any:
    return net(x, rest["t"]) if "t" in rest else net(x)


def _log_probability(net: Any, x: Any, rest: Arrays) -> Any:
    return jax.nn.log_softmax(_logits(net, x, rest))[rest["y"]]


def _gradient(net: Any, x: Any, rest: Arrays) -> Any:
    return jax.grad(lambda x: _log_probability(net, x, rest))(x)


_EDM_RULES: dict[str, Preconditioning] = {
    "edm": EDMPreconditioning(),
    "vp": VPPreconditioning(),
    "ve": VEPreconditioning(),
    "iddpm": NearestNoisePrediction(betas=Betas("iddpm")),
}
_CONSISTENCY_RULES: dict[str, Preconditioning] = {
    "edm": EDMPreconditioning(noise_gain=250.0),
    "consistency": ConsistencyPreconditioning(),
}
_RULES = {"edm": _EDM_RULES, "consistency": _CONSISTENCY_RULES}
_U_NET = {
    **{name: Head(_raw, "x") for name in ("default", "legacy", "new")},
    "control": Head(_controlled, "u"),
}
_CLASSIFIER = {"default": Head(_logits, "x"), "logp": Head(_log_probability, "x")}
_AUTOENCODER = {
    "moments": Head(lambda net, x, rest: net.moments(x), "x"),
    "decode": Head(lambda net, z, rest: net.decode(z), "z"),
}
_HEADS: dict[str, dict[str, Head]] = {
    "guided-diffusion": _U_NET,
    "ddpm": _U_NET,
    "diffusers": _U_NET,
    "consistency": {"F": Head(_raw, "x_scaled")},
    "edm": {"F": Head(_raw, "x")},
    "guided-diffusion-classifier": _CLASSIFIER,
    "digits": _CLASSIFIER,
    "autoencoder-kl": _AUTOENCODER,
    "latent-diffusion": _AUTOENCODER,
}
_CLASSIFIER_VALUES = {
    "grad_logp": Head(_gradient, "x"),
    "logp": Head(_log_probability, "x"),
}
_AUTOENCODER_VALUES = {
    "mean": Head(lambda net, x, rest: net.encode(x)[0], "x"),
    "logvar_clipped": Head(lambda net, x, rest: net.encode(x)[1], "x"),
    "reconstruction_of_mean": Head(lambda net, x, rest: net(x), "x"),
}
_VALUES: dict[str, dict[str, Head]] = {
    "guided-diffusion-classifier": _CLASSIFIER_VALUES,
    "digits": _CLASSIFIER_VALUES,
    "autoencoder-kl": _AUTOENCODER_VALUES,
    "latent-diffusion": _AUTOENCODER_VALUES,
}
_PROBES: dict[str, Function] = {
    "probe_time_sinusoid": lambda net, x, rest: net.time.features(rest["t"]),
    "probe_time_mlp": lambda net, x, rest: net.time.of_time(rest["t"], x.dtype),
    "probe_middle_block": lambda net, x, rest: _bottom(net, x, rest),
    "probe_dec_in1": lambda net, x, rest: _bottom(net, x, rest),
}


def heads(family: str, own: Preconditioning | None) -> dict[str, Head]:
    """Return the heads of a family, with the constants of the network's own rule."""
    return _HEADS[family] | {
        name: _denoiser(rule) for name, rule in _rules(family, own).items()
    }


def values(family: str, own: Preconditioning | None) -> dict[str, Head]:
    """Return the heads of arrays that come without derivatives."""
    found = dict(_VALUES.get(family, {}))
    for name, rule in _rules(family, own).items():
        found[f"out_augmented__{name}"] = _denoiser(rule, augment=True)
        found[f"out_no_labels__{name}"] = _denoiser(rule, label=False)
    return found


def _denoiser(rule: Preconditioning, label: bool = True, augment: bool = False) -> Head:
    prepare = partial(_prepare, rule, label=label, augment=augment)
    return Head(_preconditioned, "x", prepare)


def probes(family: str) -> dict[str, Function]:
    """Return functions for intermediate values, from the input to the bottom."""
    return _PROBES if "default" in _HEADS[family] or "F" in _HEADS[family] else {}


def _rules(family: str, own: Preconditioning | None) -> dict[str, Preconditioning]:
    """Return the preconditionings that a reference may use, `own` among them."""
    return {
        name: own if own is not None and type(own) is type(rule) else rule
        for name, rule in _RULES.get(family, {}).items()
    }


def _bottom(net: Any, x: Any, rest: Arrays) -> Any:
    if "noise_labels" in rest:  # EDM: label and augmentation are optional
        embedding = net.embed(_noise(rest), _labels(rest).get("label"), None, x.dtype)
    else:
        label = _labels(rest)["label"] if net.time.classes else None
        embedding = net.embed(_noise(rest), label, x.dtype)
    return net.bottom(x, embedding)[0]
