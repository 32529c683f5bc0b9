"""A neural classifier as a measurement: its logits, for guidance towards a class."""

from collections.abc import Callable

import jax

from diffctl.numerics.dtypes import float_spec
from diffctl.operators.base import Operator
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Classifier(Operator):
    """A(x) = logits of `network`, (num_classes,); y is a label, noise is `Categorical`.

    `network` is a pytree that maps one image in [-1, 1] to logits, e.g. a Flax NNX
    module; its parameters are leaves of the operator.
    """

    network: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...] = static()

    @classmethod
    def create(
        cls, network: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]
    ) -> "Classifier":
        """Check that `network` maps one image of `shape` to a vector of logits.

        A plain function becomes part of the compiled program; arrays that it captures
        become constants.
        """
        if jax.tree_util.all_leaves([network]):
            network = jax.tree_util.Partial(network)
        operator = cls(network=network, shape=shape)
        logits = jax.eval_shape(operator, float_spec(shape))
        require(
            len(logits.shape) == 1,
            f"the network maps an image of shape {shape} to shape {logits.shape}; "
            "expected (num_classes,), one example without a batch axis.",
        )
        return operator

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of `x`."""
        return self.network(x)
