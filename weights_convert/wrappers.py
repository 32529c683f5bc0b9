"""The network inside a state dict: below which prefix, and whether it is an average.

Training programs put networks into others: `net._orig_mod.`, `denoise_fn.`,
`ema_model.module.`. Every prefix is tried below which a family knows the names. An
average of a network comes before it; of several networks, otherwise alike, none is
taken.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError, Family
from weights_convert.readers.average_names import (
    LEAST_TENSORS,
    averaged_groups,
    dotted,
    says_averaged,
)
from weights_convert.readers.checkpoint import NON_EMA, Checkpoint, Container, listing
from weights_convert.readers.containers import USUAL
from weights_convert.readers.tensors import LazyTensor, show

_MAX_DEPTH = 6
_DECODERS = ("autoencoder-kl", "latent-diffusion")

Shapes = Mapping[str, tuple[int, ...]]


class Network(NamedTuple):
    """A part of a state dict that a family knows: where it is, and whose it is."""

    prefix: str
    family: Family
    shapes: Shapes  # by the names without the prefix
    averaged: bool


class Found(NamedTuple):
    """A checkpoint with the network selected, and what the user should know of it."""

    checkpoint: Checkpoint
    notes: tuple[str, ...]


def find_network(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Found:
    """Select the network in the selected state dict of a checkpoint.

    A file in which no family knows anything stays as it is.

    Args:
        checkpoint: with a state dict selected.
        config: the settings; a U-Net beside an autoencoder needs its `pipeline`.

    Raises:
        ConfigError: there are several networks and nothing says which is meant, the one
            meant is a prior of latents, or only other state dicts hold any.
    """
    networks = list(_networks(checkpoint.choices[checkpoint.container]))
    if not networks:
        _check_elsewhere(checkpoint)
    chosen = _chosen(checkpoint, networks) if networks else None
    selected = checkpoint
    if chosen is not None and chosen.prefix:
        selected = checkpoint.select(_label(checkpoint, chosen.prefix))
    _check_decoder(selected, chosen, config)
    others = [n.prefix for n in networks if n is not chosen]
    labels = [_label(checkpoint, prefix or NON_EMA) for prefix in others]
    return Found(selected, tuple(_notes(checkpoint, selected, labels)))


def around(checkpoint: Checkpoint) -> tuple[dict[str, LazyTensor], str]:
    """Return all tensors beside the selected part, and the prefix of the part."""
    base, prefix = _place(checkpoint)
    return checkpoint.choices[base].tensors, "" if prefix == NON_EMA else prefix


def _networks(container: Container) -> Iterator[Network]:
    """Yield the networks in a state dict, those whose names lost their dots last."""
    shapes = {name: tensor.shape for name, tensor in container.tensors.items()}
    for prefix, family, inner in _recognised(shapes):
        averaged = container.averaged or any(map(says_averaged, prefix.split(".")))
        yield Network(prefix, family, inner, averaged)
    for group, found in dotted(container.tensors).items():
        named = {name: tensor.shape for name, tensor in found.items()}
        for prefix, family, inner in _recognised(named):
            yield Network(f"{group}{prefix}", family, inner, averaged=True)


def _check_elsewhere(checkpoint: Checkpoint) -> None:
    """Check that networks are not in other state dicts than the selected one.

    Raises:
        ConfigError: some are.
    """
    fitting = [
        name
        for name, container in checkpoint.choices.items()
        if not container.problem and any(_networks(container))
    ]
    if fitting:
        raise ConfigError(
            f"{checkpoint.container} of {checkpoint.path.name} holds no network of a "
            "known family, and other state dicts of the file do; choose one with "
            f"--container: {', '.join(map(show, fitting))}."
        )


def _recognised(shapes: Shapes) -> Iterator[tuple[str, Family, Shapes]]:
    """Yield the prefixes below which a family knows the names, the shortest first.

    Inside such a part only averages are another network.
    """
    pending = [("", shapes)]
    for prefix, inner in pending:
        families = (f for f in FAMILIES.values() if f.detect(inner))
        family = next(families, None)
        if family is not None:
            yield prefix, family, inner
        if prefix.count(".") < _MAX_DEPTH:
            pending += [
                (f"{prefix}{part}.", group)
                for part, group in _grouped(inner).items()
                if len(group) >= LEAST_TENSORS
                and (family is None or says_averaged(part))
            ]


def _grouped(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return tensors by the first part of their names, under the rest of them."""
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        part, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(part, {})[rest] = shape
    return groups


def _chosen(checkpoint: Checkpoint, networks: list[Network]) -> Network:
    """Return the network that is meant.

    Raises:
        ConfigError: nothing says which.
    """
    whole = next((network for network in networks if not network.prefix), None)
    if whole is None:
        best = max(map(_rank, networks))
        fitting = [network for network in networks if _rank(network) == best]
    else:
        averages = [n for n in networks if n is not whole and _is_average(n, whole)]
        fitting = averages or [whole]
    if len(fitting) > 1:
        labels = ", ".join(_label(checkpoint, network.prefix) for network in fitting)
        raise ConfigError(
            f"{checkpoint.path.name} holds several networks, and nothing says which is "
            f"meant; choose one with --container: {labels}."
        )
    return fitting[0]


def _rank(network: Network) -> int:
    if network.averaged:
        return 2
    return int(bool(USUAL.intersection(network.prefix.split("."))))


def _is_average(network: Network, whole: Network) -> bool:
    """Return whether a part holds the averages of a network around it."""
    first = next(iter(network.shapes))
    befores = [n.removesuffix(first) for n in whole.shapes if n.endswith(first)]
    return network.family is whole.family and any(
        not f"{before}{first}".startswith(network.prefix)
        and all(
            whole.shapes.get(f"{before}{n}") == s for n, s in network.shapes.items()
        )
        for before in befores
    )


def _check_decoder(
    selected: Checkpoint, chosen: Network | None, config: Mapping[str, Any]
) -> None:
    """Check that a part of a latent diffusion model is not taken for an image prior.

    Raises:
        ConfigError: the selected tensors are those of its denoiser.
    """
    base, prefix = _place(selected)
    if not prefix or (chosen is not None and chosen.family.name in _DECODERS):
        return
    beside = selected.choices[base]
    stage = prefix.startswith("model.diffusion_model") and any(
        name.startswith("first_stage_model.") for name in beside.tensors
    )
    decoders = [n.prefix for n in _networks(beside) if n.family.name in _DECODERS]
    if stage or (decoders and not config.get("pipeline")):
        first = (
            "leave --container out"
            if stage or "" in decoders
            else (f"choose it with --container {base}:{decoders[0]}")
        )
        raise ConfigError(
            f"{prefix} of {selected.path.name} is the U-Net of a latent diffusion "
            "model, a prior of latents on a schedule of its own, and cannot be "
            f"converted without its pipeline. Its first stage can: {first}."
        )


def _place(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return the state dict of a selection, and the prefix in it."""
    base, _, prefix = checkpoint.container.rpartition(":")
    is_part = base in checkpoint.choices and prefix
    return (base, prefix) if is_part else (checkpoint.container, "")


def _label(checkpoint: Checkpoint, prefix: str) -> str:
    """Return what --container calls a part of the selected state dict."""
    base, outer = _place(checkpoint)
    return f"{base}:{'' if outer == NON_EMA else outer}{prefix}"


def _notes(
    checkpoint: Checkpoint, selected: Checkpoint, others: list[str]
) -> Iterator[str]:
    """Yield what was taken, what was taken off its names, and what else is there."""
    prefix = _place(selected)[1]
    container = selected.choices[selected.container]
    others = [*others, *_of_similar_size(checkpoint, selected)]
    averaged = container.averaged or _is_called_averaged(selected)
    if prefix or others or averaged:
        what = "averaged weights" if averaged else "weights"
        also = f"; also there, for --container: {listing(others)}" if others else ""
        yield f"taken: {what} {selected.container}{also}"
    wrapper = f"{container.wrapper}{'' if prefix == NON_EMA else prefix}"
    if wrapper:
        yield f"prefix taken off the names of the tensors: {wrapper}"
    for name, other in checkpoint.choices.items():
        if other.problem:
            yield f"not taken: {show(name)}, which {other.problem}"
    taken = {id(tensor.storage) for tensor in container.tensors.values()}
    left = [n for n, t in checkpoint.tensors.items() if id(t.storage) not in taken]
    if left and selected is not checkpoint:
        yield f"left out: {len(left)} tensors beside them, such as {listing(left[:3])}"


def _is_called_averaged(selected: Checkpoint) -> bool:
    """Return whether a selection is called an average.

    The name of a state dict says it of the averages in it, where some are called so.
    """
    base, prefix = _place(selected)
    if averaged_groups(selected.choices[base].tensors):
        return any(map(says_averaged, prefix.split(".")))
    return any(map(says_averaged, [*base.split("/"), *prefix.split(".")]))


def _of_similar_size(checkpoint: Checkpoint, selected: Checkpoint) -> list[str]:
    """Return the other state dicts that may hold the network as well."""
    base, _ = _place(selected)
    least = selected.choices[selected.container].num_parameters / 2
    return [
        name
        for name, container in checkpoint.choices.items()
        if name not in (base, checkpoint.container)
        and not container.problem
        and container.num_parameters >= least
    ]
