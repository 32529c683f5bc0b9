"""A small UNet2DModel in PyTorch, by the names of huggingface/diffusers.

One level, attention in the middle; enough for what an exporter does to weights.
"""

import torch
from torch import nn
from torch.nn import functional

WIDTH, EMBEDDED, GROUPS, HEADS = 4, 16, 2, 2


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, WIDTH, 3, padding=1)
        self.time_emb_proj = nn.Linear(EMBEDDED, WIDTH)
        self.norm2 = nn.GroupNorm(GROUPS, WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        if width != WIDTH:
            self.conv_shortcut = nn.Conv2d(width, WIDTH, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = inner + self.time_emb_proj(functional.silu(time))[:, :, None, None]
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (self.conv_shortcut(x) if x.shape[1] != WIDTH else x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, WIDTH)
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.group_norm(x.flatten(2)).transpose(1, 2)
        query, key, value = (
            part(flat).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        found = self.to_out[0](found.transpose(1, 2).flatten(2))
        return x + found.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """Residual blocks; on the way up each gets what was stored on the way down."""

    def __init__(self, widths: tuple[int, ...], attends: bool = False) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(map(Residual, widths))
        if attends:
            self.attentions = nn.ModuleList([Attention()])

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, stored: list[torch.Tensor]
    ) -> torch.Tensor:
        for place, block in enumerate(self.resnets):
            x = block(torch.cat([x, stored.pop()], 1) if stored else x, time)
            if place == 0 and hasattr(self, "attentions"):
                x = self.attentions[0](x)
        return x


class TimeEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(WIDTH, EMBEDDED)
        self.linear_2 = nn.Linear(EMBEDDED, EMBEDDED)

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(-9.2 * torch.arange(WIDTH // 2) / (WIDTH // 2))
        angles = timestep[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return self.linear_2(functional.silu(self.linear_1(waves)))


class UNet(nn.Module):
    """The network, with random parameters but fresh norms and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.time_embedding = TimeEmbedding()
        self.down_blocks = nn.ModuleList([Block((WIDTH,))])
        self.mid_block = Block((WIDTH, WIDTH), attends=True)
        self.up_blocks = nn.ModuleList([Block((2 * WIDTH, 2 * WIDTH))])
        self.conv_norm_out = nn.GroupNorm(GROUPS, WIDTH)
        self.conv_out = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        time = self.time_embedding(timestep)
        first = self.conv_in(x)
        second = self.down_blocks[0](first, time, [])
        inner = self.mid_block(second, time, [])
        inner = self.up_blocks[0](inner, time, [first, second])
        return self.conv_out(functional.silu(self.conv_norm_out(inner)))
