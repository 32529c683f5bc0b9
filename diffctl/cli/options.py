"""The options of every command, as the dataclasses that the parser reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diffctl.host import Count, Natural, Positive, Range, Seed

# The losses of all steps are kept.
Steps = Annotated[int, Range(1, 10**8)]
Width = Annotated[int, Range(1, 1 << 16)]
Level = Annotated[float, Range(0)]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command has.

    Attributes:
        json: Print one JSON document on standard output instead of text.
        debug: Show the traceback of an error.
    """

    json: bool = False
    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Reconstruct handwritten digits with two solvers and write one HTML page.

    Uses what ships with the package; nothing is downloaded.

    Attributes:
        out: Folder for the page, the figure and the numbers. By default the first of
            diffctl-demo, diffctl-demo-2, ... that does not exist.
        overwrite: Replace OUT if an earlier run of diffctl wrote it.
        digits: Test digits for each of the five restoration tasks, 1 to 32.
        seed: Of the measurements and the solvers.
    """

    out: Path | None = None
    overwrite: bool = False
    digits: Annotated[int, Range(1, 32)] = 2
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Common):
    """Degrade an image by a task and reconstruct it, or reconstruct a measurement.

    Attributes:
        out: Folder for the images, the report and the manifest.
        task: What was measured; `diffctl list` names the tasks.
        solver: How to reconstruct; `diffctl list` names the solvers.
        image: Picture file, of the size and channels of the prior, without
            transparency; EXIF orientation is applied, colour profiles are ignored.
        measured: The image is the measurement already: do not degrade it.
        label: Class of the picture: the one to draw for the task class_guidance, which
            takes no image, and the one that conditions a class-conditional prior.
        prior: Folder of a prior, as written by `diffctl train prior` or by
            `python -m weights_convert`. By default the prior of digits that ships with
            the package.
        noise_std: Standard deviation of the noise, on the scale of images in [-1, 1].
        steps: Steps of the solver (levels for DPS, iterations for DOC) instead of its
            own number.
        seed: Of the measurement and the solver.
        overwrite: Replace OUT if an earlier run of diffctl wrote it.
        resume: Go on with an interrupted run of the same settings.
    """

    out: Path
    task: str
    solver: str = "doc"
    image: Path | None = None
    measured: bool = False
    label: Natural | None = None
    prior: Path | None = None
    noise_std: Level = 0.05
    steps: Annotated[int, Range(1, 10**6)] | None = None
    seed: Seed = 0
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class SelfCheck(Common):
    """Compare solvers, samplers and the shipped networks with what is known exactly."""


@dataclass(frozen=True, kw_only=True)
class Training(Common):
    """Options of both trainings.

    Attributes:
        data: An .npz file with uint8 images (N, H, W, C).
        out: Folder for the model; checkpoints are kept beside it until it is done.
        start_from: Folder of a model of the same shapes whose parameters to start from,
            instead of random ones.
        images: Name of the array of training images.
        held_out: Name of the array of images to evaluate on; empty for none.
        num_steps: Optimiser steps.
        batch_size: Images a step.
        peak_rate: Largest learning rate.
        schedule: How the rate goes on after the warm-up: cosine or constant.
        warmup: Steps of linear warm-up.
        checkpoint_every: Steps between checkpoints.
        seed: Of the initial parameters, the batches and the noise.
        overwrite: Replace OUT, and an unfinished run for it.
        resume: Go on with an interrupted run of the same settings.
    """

    data: Path
    out: Path
    start_from: Path | None = None
    images: str = "x_train"
    held_out: str = "x_test"
    num_steps: Steps = 20_000
    batch_size: Count = 128
    peak_rate: Positive = 1e-3
    schedule: str = "cosine"
    warmup: Natural = 500
    checkpoint_every: Count = 500
    seed: Seed = 0
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainPrior(Training):
    """Train a denoiser with the EDM loss and a moving average of the parameters.

    Attributes:
        widths: Channels per resolution of the U-Net, finest first.
        blocks: Residual blocks per resolution.
        sigma_data: Root mean square of the images, of the preconditioning.
        dtype: What the network computes in: float32, or bfloat16 on accelerators.
    """

    widths: tuple[Width, ...] = (64, 88)
    blocks: tuple[Annotated[int, Range(0, 1000)], ...] = (1, 2)
    sigma_data: Positive = 1.0
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(Training):
    """Train a small classifier, for class guidance.

    Attributes:
        labels: Name of the array of training labels.
        held_out_labels: Name of the array of labels to evaluate on.
        width: Channels after the first convolution.
        max_shift: Pixels by which images are shifted at random.
    """

    labels: str = "y_train"
    held_out_labels: str = "y_test"
    num_steps: Steps = 3_000
    warmup: Natural = 100
    width: Width = 16
    max_shift: Natural = 2


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a prior or a classifier; an interrupted run goes on with --resume."""

    what: (
        Annotated[TrainPrior, tyro.conf.subcommand("prior")]
        | Annotated[TrainClassifier, tyro.conf.subcommand("classifier")]
    )


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """Show solvers, operators and tasks with what they need and cost.

    Attributes:
        markdown: Print Markdown tables, as in the README.
    """

    markdown: bool = False


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    | Annotated[SelfCheck, tyro.conf.subcommand("selfcheck")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def parse(arguments: list[str] | None) -> Common:
    """Return the options of the chosen command; exits with 2 on a usage error."""
    command = tyro.cli(
        Command,
        prog="diffctl",
        description="Inverse problems with diffusion priors and optimal control.",
        args=arguments,
        config=(
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
        ),
    )
    return command.what if isinstance(command, Train) else command
