#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler(timestep_spacing="trailing").set_timesteps(61) gives 62
# timesteps, the last of which is -1, an index of no training level. The same happens for
# 62 of the 1000 possible numbers of steps.
#
# The timesteps are numpy.arange(1000, 0, -1000 / 61) rounded, minus 1; the step is not
# exact, so that arange yields one more value just above 0, which rounds to 0. With the
# index -1 the sampler takes one more network call than asked for, at a label that the
# network was not trained with. Numbers such as 50 or 100, which divide 1000, are right.
#
# Output seen:
#   61 steps asked for: 62 timesteps, the last two 15 and -1
#   62 of the numbers from 1 to 1000 give another number of timesteps
#
# Exits with 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from diffusers import DDIMScheduler

scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")


def timesteps(count):
    scheduler.set_timesteps(count)
    return scheduler.timesteps.tolist()


found = timesteps(61)
print(
    f"61 steps asked for: {len(found)} timesteps, the last two {found[-2]} and {found[-1]}"
)
wrong = sum(len(timesteps(count)) != count for count in range(1, 1001))
print(f"{wrong} of the numbers from 1 to 1000 give another number of timesteps")
sys.exit(not (len(found) == 62 and found[-1] == -1 and wrong > 0))
PYTHON
