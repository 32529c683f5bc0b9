"""The guided-diffusion U-Net in PyTorch, timed on request; for `torch_reference.py`.

Runs under another Python, which has PyTorch and NumPy and nothing of this project. It
is written from the public description of the architecture and keeps the names of its
files, so that the weights of a network of ours load strictly.

Reads lines "forward" or "forward_vjp" and answers each with a line of JSON: wall and
processor seconds. The arrays that it computed last are in `found.npz`.
"""

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

GROUPS = 32


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; scale and shift from the embedding between."""

    def __init__(
        self, start: int, stop: int, embedding: int, resample: str | None = None
    ):
        super().__init__()
        self.resample = resample
        norm, conv = nn.GroupNorm(GROUPS, start), nn.Conv2d(start, stop, 3, padding=1)
        self.in_layers = nn.ModuleList([norm, nn.SiLU(), conv])
        self.emb_layers = nn.ModuleList([nn.SiLU(), nn.Linear(embedding, 2 * stop)])
        norm, conv = nn.GroupNorm(GROUPS, stop), nn.Conv2d(stop, stop, 3, padding=1)
        self.out_layers = nn.ModuleList([norm, nn.SiLU(), nn.Identity(), conv])
        same = start == stop
        self.skip_connection = nn.Identity() if same else nn.Conv2d(start, stop, 1)

    def forward(self, x: Any, embedding: Any) -> Any:
        norm, act, conv = self.in_layers
        h = self._resized(act(norm(x)))
        h = conv(h)
        shared = self.emb_layers[1](self.emb_layers[0](embedding))[:, :, None, None]
        scale, shift = shared.chunk(2, dim=1)
        norm, act, _, conv = self.out_layers
        h = conv(act(norm(h) * (1 + scale) + shift))
        return self.skip_connection(self._resized(x)) + h

    def _resized(self, x: Any) -> Any:
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        if self.resample == "up":
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        return x


class Attention(nn.Module):
    """Attention over all pixels; channels ordered (head, {q, k, v}, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Any, _embedding: Any) -> Any:
        n, width, *shape = x.shape
        flat = x.reshape(n, width, -1)
        parts = self.qkv(self.norm(flat)).reshape(n * self.heads, -1, flat.shape[-1])
        q, k, v = parts.chunk(3, dim=1)
        scale = q.shape[1] ** -0.25
        weights = torch.softmax((q * scale).transpose(1, 2) @ (k * scale), dim=-1)
        mixed = (v @ weights.transpose(1, 2)).reshape(n, width, -1)
        return x + self.proj_out(mixed).reshape(n, width, *shape)


class Plain(nn.Conv2d):
    """A convolution that takes the embedding and leaves it alone."""

    def forward(self, x: Any, _embedding: Any) -> Any:
        return super().forward(x)


class UNet(nn.Module):
    """Encoder, middle, decoder; resampling inside residual blocks."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.width = settings["width"]
        image, out = settings["channels"]
        embedding = 4 * self.width
        levels = settings["levels"]
        first, second = (
            nn.Linear(self.width, embedding),
            nn.Linear(embedding, embedding),
        )
        self.time_embed = nn.ModuleList([first, nn.SiLU(), second])

        def stage(start: int, level: dict[str, int], heads: int) -> list[Any]:
            parts = [ResidualBlock(start, level["width"], embedding)]
            return parts + ([Attention(level["width"], heads)] if heads else [])

        width = levels[0]["width"]
        encoder, stored = [[Plain(image, width, 3, padding=1)]], [width]
        for number, level in enumerate(levels):
            if number:
                encoder.append([ResidualBlock(width, width, embedding, "down")])
                stored.append(width)
            for _ in range(level["blocks"]):
                encoder.append(stage(width, level, level["heads"]))
                width = level["width"]
                stored.append(width)
        middle = [
            ResidualBlock(width, width, embedding),
            Attention(width, settings["middle_heads"]),
            ResidualBlock(width, width, embedding),
        ]
        decoder = []
        for number, level in reversed(list(enumerate(levels))):
            for index in range(level["blocks"] + 1):
                parts = stage(width + stored.pop(), level, level["heads_up"])
                width = level["width"]
                if number and index == level["blocks"]:
                    parts.append(ResidualBlock(width, width, embedding, "up"))
                decoder.append(parts)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, encoder))
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, decoder))
        last = nn.Conv2d(width, out, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), last)

    def forward(self, x: Any, t: Any) -> Any:
        half = self.width // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
        angles = t[:, None] * rates
        embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
        for layer in self.time_embed:
            embedding = layer(embedding)
        stored = []
        for stage in self.input_blocks:
            for part in stage:
                x = part(x, embedding)
            stored.append(x)
        for part in self.middle_block:
            x = part(x, embedding)
        for stage in self.output_blocks:
            x = torch.cat([x, stored.pop()], dim=1)
            for part in stage:
                x = part(x, embedding)
        return self.out(x)


def forward(net: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the output."""
    with torch.no_grad():
        return {"out": net(arrays["x"], arrays["t"])}


def forward_vjp(net: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the output and the gradient of its product with the cotangent."""
    x = arrays["x"].clone().requires_grad_(True)
    out = net(x, arrays["t"])
    (vjp,) = torch.autograd.grad(out, x, arrays["ct"])
    return {"out": out.detach(), "vjp": vjp}


def main(folder: str, threads: int) -> None:
    """Load the network and answer until the input ends."""
    torch.set_num_threads(threads)
    with open(f"{folder}/settings.json") as file:
        net = UNet(json.load(file))
    with np.load(f"{folder}/weights.npz") as file:
        state = {name: torch.from_numpy(file[name]) for name in file.files}
    net.load_state_dict(state, strict=True)
    net.eval().requires_grad_(False)
    with np.load(f"{folder}/inputs.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    print(json.dumps({"torch": torch.__version__, "threads": threads}), flush=True)
    for line in sys.stdin:
        function = {"forward": forward, "forward_vjp": forward_vjp}[line.strip()]
        wall, cpu = time.perf_counter(), time.process_time()
        found = function(net, arrays)
        spent = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }
        np.savez(f"{folder}/found.npz", **{k: v.numpy() for k, v in found.items()})
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
