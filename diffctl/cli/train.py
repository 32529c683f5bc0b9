"""`diffctl train`: run a recipe to the end, through kills and Ctrl-C.

The state and the losses of all steps are saved every `--checkpoint-every` steps. Since
step n depends on the seed, n and the state alone, a resumed run ends in the same
parameters, to the bit on the same machine, as one that was never interrupted.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from rich.progress import Progress

from diffctl.cli import manifest
from diffctl.cli.names import lookup
from diffctl.cli.options import TrainClassifier, Training, TrainPrior
from diffctl.cli.recipes import Recipe, classifier_recipe, prior_recipe
from diffctl.cli.terminal import Outcome, Terminal
from diffctl.cli.unfinished import Unfinished
from diffctl.host import Place, claimed, naming, to_json
from diffctl.training import constant, cosine, create_state, train

# Options that do not change the result.
_FREE = (
    *("out", "data", "start_from"),  # the last two count by their content
    *("overwrite", "resume", "json", "debug", "checkpoint_every"),
)
_CURVE_POINTS = 200
_READ_EVERY = 10

RECIPES: Mapping[type, Callable[[Any], Recipe]] = {
    TrainPrior: prior_recipe,
    TrainClassifier: classifier_recipe,
}
SCHEDULES: Mapping[str, Callable[[Training], optax.Schedule]] = {
    "cosine": lambda c: cosine(c.peak_rate, warmup=c.warmup, num_steps=c.num_steps),
    "constant": lambda c: constant(c.peak_rate, warmup=c.warmup),
}


def run(command: Training, terminal: Terminal) -> Outcome:
    """Train a model and write its folder, with `training.json` in it."""
    _check(command)
    with claimed(command.out, overwrite=command.overwrite, say=terminal.note) as place:
        recipe = RECIPES[type(command)](command)
        settings = _settings(command)
        with Unfinished.open(place, settings, resume=command.resume) as unfinished:
            with terminal.progress() as progress:
                journal = _Journal(command, unfinished, progress)
                net = _train(command, recipe, journal)
                notes = recipe.evaluate(net)
            document = _document(settings, notes, journal)
            _publish(place, recipe, net, document)
            unfinished.remove()
    terminal.wrote(command.out)
    for name, value in notes.items():
        terminal.out.print(f"  {name}: {value}")
    return Outcome({"out": str(command.out)} | document)


def _train(command: Training, recipe: Recipe, journal: "_Journal") -> Any:
    schedule = lookup("schedule", command.schedule, SCHEDULES)(command)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99)
    )
    state = create_state(recipe.net, optimiser)
    state = journal.take_up(state)
    state = train(
        state,
        recipe.dataset,
        recipe.objective,
        optimiser,
        num_steps=command.num_steps,
        batch_size=command.batch_size,
        seed=command.seed,
        on_step=journal.on_step,
    )
    journal.save(state)
    return state.ema


class _Journal:
    """Losses, checkpoints and the progress bar of one training."""

    def __init__(self, command: Training, unfinished: Unfinished, progress: Progress):
        self._every = command.checkpoint_every
        self._unfinished = unfinished
        self._losses = np.full(command.num_steps, np.nan, np.float32)
        self._unread: dict[int, jax.Array] = {}
        self._saved = 0
        self._started = time.monotonic()
        self.progress = progress
        self._bar = self.progress.add_task("training", total=command.num_steps)

    def take_up(self, state: Any) -> Any:
        """Return the newest checkpoint, or `state` if there is none."""
        like = {"state": state, "losses": self._losses}
        found = self._unfinished.restore(like)
        if found is None:
            return state
        self._losses = np.array(found["losses"])
        self._saved = int(found["state"].step)
        self.progress.update(self._bar, completed=self._saved)
        return found["state"]

    def on_step(self, state: Any, loss: jax.Array) -> None:
        """Note the loss; now and then wait for it, show it and save the state."""
        step = len(self._unread) + self._read_up_to() + 1
        self._unread[step - 1] = loss
        if len(self._unread) >= _READ_EVERY:
            self._read()
        if step % self._every == 0:
            self.save(state)

    def save(self, state: Any) -> None:
        """Save the state with the losses so far."""
        self._read()
        if self._read_up_to() > self._saved:
            self._unfinished.save({"state": state, "losses": self._losses})
            self._saved = self._read_up_to()

    def seconds(self) -> float:
        """Return the time since this process began to train."""
        return time.monotonic() - self._started

    def curve(self) -> list[list[float]]:
        """Return [last step, mean loss] of successive stretches."""
        pieces = np.array_split(self._losses, min(_CURVE_POINTS, len(self._losses)))
        ends = np.cumsum([len(piece) for piece in pieces])
        return [
            [int(end), float(piece.mean())]
            for end, piece in zip(ends, pieces, strict=True)
        ]

    def _read_up_to(self) -> int:
        return int(np.sum(~np.isnan(self._losses)))

    def _read(self) -> None:
        for step, loss in self._unread.items():
            self._losses[step] = loss
            if not np.isfinite(self._losses[step]):
                raise FloatingPointError(
                    f"The loss of step {step + 1} is {self._losses[step]}. Try a "
                    "smaller --peak-rate."
                )
        self._unread.clear()
        done = self._read_up_to()
        recent = self._losses[max(0, done - 100) : done]
        if len(recent):
            self.progress.update(
                self._bar,
                completed=done,
                description=f"training, loss {recent.mean():.4f}",
            )


def _document(
    settings: dict[str, Any], notes: dict[str, Any], journal: _Journal
) -> dict[str, Any]:
    return {
        "settings": settings,
        "notes": notes,
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "seconds_since_start_or_resumption": round(journal.seconds(), 1),
        "loss": journal.curve(),
    }


def _publish(place: Place, recipe: Recipe, net: Any, document: dict[str, Any]) -> None:
    folder = place.scratch() / "model"
    with naming(place.out):
        recipe.save(net, folder, document["notes"])
        (folder / "training.json").write_text(to_json(document))
    place.publish(folder)


def _settings(command: Training) -> dict[str, Any]:
    """Return what decides the result, as JSON."""
    chosen = {k: v for k, v in dataclasses.asdict(command).items() if k not in _FREE}
    if command.start_from is not None:
        chosen["start_from_sha256"] = manifest.digest_of_model(command.start_from)
    return chosen | {"data_sha256": manifest.digest(command.data)}


def _check(command: Training) -> None:
    if command.warmup >= command.num_steps:
        raise ValueError(
            f"--warmup is {command.warmup}; expected 0 to {command.num_steps - 1}, "
            "less than --num-steps."
        )
    lookup("schedule", command.schedule, SCHEDULES)
    if not command.data.is_file():
        raise FileNotFoundError(f"There is no data file {command.data}.")
