"""What a task is: how it turns the user's input into a problem.

A restoration measures an image; guidance asks for an image of a class.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.operators import (
    Categorical,
    Classifier,
    GaussianNoise,
    Operator,
    Problem,
    simulate,
)
from diffctl.solvers import likelihood
from diffctl.solvers.dps import exact_unit
from diffctl.solvers.first_guess import GuidedControls

_DIGITS = 10
_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Request:
    """What the user gave.

    Attributes:
        shape: of the prior's images, (height, width, channels).
        key: for what is drawn: mask, kernel, noise.
        noise_std: on the [-1, 1] scale.
        image: in [-1, 1], (*shape), or the measurement if `measured`; None if absent.
        measured: the image is the measurement.
        label: of the picture's class; None if absent.
    """

    shape: tuple[int, ...]
    key: jax.Array
    noise_std: float = 0.05
    image: Any = None
    measured: bool = False
    label: int | None = None


@dataclass(frozen=True)
class Posed:
    """A problem, with the truth where it is known."""

    problem: Problem
    truth: Any = None  # (*shape) in [-1, 1]


@dataclass(frozen=True)
class Task(abc.ABC):
    """A kind of problem.

    Attributes:
        summary: one line for the user.
        doc_settings: what differs from `DOC.default()`.
        dps_settings: arguments of DPS for a task without published ones.
        takes_label: whether the task itself needs a class; a class-conditional prior
            needs it for any task.
    """

    takes_label: ClassVar[bool] = False

    summary: str
    doc_settings: Mapping[str, Any] = field(default_factory=lambda: _NO_SETTINGS)
    dps_settings: Mapping[str, Any] = field(default_factory=lambda: _NO_SETTINGS)

    @abc.abstractmethod
    def pose(self, request: Request) -> Posed:
        """Return the problem; raise `ValueError` for input that the task cannot use."""


@dataclass(frozen=True)
class Restoration(Task):
    """Recover an image from a degraded one.

    Attributes:
        operator: `operator(shape, key)`.
        drawn: whether the operator depends on the key.
    """

    operator: Callable[[Any, jax.Array], Operator] = field(kw_only=True)
    drawn: bool = False

    def pose(self, request: Request) -> Posed:
        if request.image is None:
            raise ValueError("This task takes --image: the picture to restore.")
        operator_key, noise_key = jax.random.split(request.key)
        operator = self.operator(request.shape, operator_key)
        noise = GaussianNoise(std=request.noise_std)
        if not request.noise_std > 0:
            raise ValueError(
                f"--noise-std is {request.noise_std}; expected a positive number."
            )
        image = jnp.asarray(request.image)
        if not request.measured:
            y = simulate(noise_key, operator, noise, image)
            return Posed(Problem(y=y, operator=operator, noise=noise), truth=image)
        if self.drawn:
            raise ValueError(
                "The mask or kernel of this task is drawn at random, so that of a "
                "picture with --measured is not known; give the clean image, or use "
                "the Python interface with your own operator."
            )
        y = operator.restrict(image)
        return Posed(Problem(y=y, operator=operator, noise=noise))


def _guidance_settings() -> Mapping[str, Any]:
    return {"cost": likelihood, "unit": exact_unit, "guidance_scale": 2.0}


def _drawing_settings() -> Mapping[str, Any]:
    # From the mode of the noise there is one image per class. A draw near it gives some
    # variety; one with the prior's own spread often a broken digit (see the README).
    return {"start_scale": 0.1, "first_guess": GuidedControls(strength=2.0)}


@dataclass(frozen=True)
class Guidance(Task):
    """Draw an image of a class of the digit classifier that ships with the package."""

    takes_label: ClassVar[bool] = True

    doc_settings: Mapping[str, Any] = field(default_factory=_drawing_settings)
    dps_settings: Mapping[str, Any] = field(default_factory=_guidance_settings)

    def pose(self, request: Request) -> Posed:
        from diffctl.assets import digits_classifier

        if request.label is None or request.image is not None:
            raise ValueError("This task takes --label, 0 to 9, and no --image.")
        if not 0 <= request.label < _DIGITS:
            raise ValueError(f"--label is {request.label}; expected a digit, 0 to 9.")
        if request.shape != (28, 28, 1):
            raise ValueError(
                f"The digit classifier takes images of shape (28, 28, 1), the prior "
                f"models {request.shape}; use the prior of digits (no --prior)."
            )
        operator = Classifier.create(digits_classifier(), request.shape)
        y = jnp.asarray(request.label, jnp.int32)
        return Posed(Problem(y=y, operator=operator, noise=Categorical()))
