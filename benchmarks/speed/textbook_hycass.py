"""The layers of HyCASS in textbook form: windows are cut one step at a time, and every product is written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 8
PATCH_SIZE = 128
DEPTHS, HEADS = (2, 4, 6, 2), (4, 8, 16, 16)
MASKED = -100.0


def encoder_layers(bands: int, latent: int, stages: int) -> list[nn.Module]:
    """Return the layers from `bands` to `latent` channels, with a sigmoid at the end."""
    width = 128 if stages else 1024
    layers: list[nn.Module] = [nn.Conv2d(bands, width, 1), nn.LeakyReLU(0.01)]
    for stage in range(stages):
        layers += [_Stage(stage), nn.Conv2d(width, width, 3, 2, 1), nn.LeakyReLU(0.01)]
    return [*layers, nn.Conv2d(width, latent, 1), nn.Sigmoid()]


def decoder_layers(bands: int, latent: int, stages: int) -> list[nn.Module]:
    """Return the layers from `latent` to `bands` channels, with a sigmoid at the end."""
    width = 128 if stages else 1024
    layers: list[nn.Module] = [nn.Conv2d(latent, width, 1), nn.LeakyReLU(0.01)]
    for stage in reversed(range(stages)):
        layers += [nn.ConvTranspose2d(width, width, 3, 2, 1, 1), nn.LeakyReLU(0.01), _Stage(stage)]
    return [*layers, nn.Conv2d(width, bands, 1), nn.Sigmoid()]


class _Stage(nn.Module):
    """Blocks of windowed attention, every second one shifted, with a skip connection over all of them."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        first = sum(DEPTHS[:stage])
        self.blocks = nn.Sequential(
            *(
                _Block(HEADS[stage], bool(number % 2), 0.2 * (first + number) / 15, PATCH_SIZE >> stage)
                for number in range(DEPTHS[stage])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A pre-norm block on maps (N, H, W, 128); `drop` is its probability of being skipped in training."""

    def __init__(self, heads: int, is_shifted: bool, drop: float, patch_side: int) -> None:
        super().__init__()
        self.is_shifted, self.drop = is_shifted, drop
        if is_shifted and patch_side > WINDOW:  # as the weights have it
            self.register_buffer("stored_mask", torch.empty((patch_side // WINDOW) ** 2, WINDOW**2, WINDOW**2))
        self.norm1, self.attention = nn.LayerNorm(128), _Attention(heads)
        self.norm2, self.widen, self.narrow = nn.LayerNorm(128), nn.Linear(128, 512), nn.Linear(512, 128)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._skipped(self._attended(self.norm1(x)))
        return x + self._skipped(self.narrow(F.gelu(self.widen(self.norm2(x)))))

    def _attended(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        side = min(WINDOW, height, width)
        shift = WINDOW // 2 if self.is_shifted and min(height, width) > WINDOW else 0
        below, right = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, right, 0, below)).roll((-shift, -shift), (1, 2))
        regions = _regions(height, width, below, right, side, shift).to(x.device)
        windows, labels = _cut(x, side), _cut(regions, side)[..., 0]
        mask = torch.where(labels[:, :, None] == labels[:, None, :], 0.0, MASKED).to(x.dtype)
        x = _join(self.attention(windows, mask, side), x.shape, side).roll((shift, shift), (1, 2))
        return x[:, :height, :width]

    def _skipped(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop:
            return x
        return x * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) >= self.drop) / (1 - self.drop)


class _Attention(nn.Module):
    """Attention of several heads in windows, with a bias for each offset of two tokens."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.offset_bias = nn.Parameter(torch.empty(15 * 15, heads))
        self.register_buffer("stored_index", torch.empty(WINDOW**2, WINDOW**2, dtype=torch.int64))
        self.qkv, self.out = nn.Linear(128, 384), nn.Linear(128, 128)

    def forward(self, x: Tensor, mask: Tensor, side: int) -> Tensor:
        """Map windows (N * windows, side^2, 128) to the same shape; `mask` is (windows, side^2, side^2)."""
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).reshape(2, -1)
        rows, columns = places[:, :, None] - places[:, None, :] + WINDOW - 1
        bias = self.offset_bias[(15 * rows + columns).to(x.device)].permute(2, 0, 1)
        scores = q @ k.transpose(2, 3) * (128 // self.heads) ** -0.5 + bias
        scores = scores + mask.repeat(count // len(mask), 1, 1)[:, None]
        return self.out((torch.softmax(scores, dim=3) @ v).transpose(1, 2).reshape(count, tokens, 128))


def _regions(height: int, width: int, below: int, right: int, side: int, shift: int) -> Tensor:
    """Return a number for each part of the rolled map whose tokens see one another, (1, rows, columns, 1)."""
    is_padding = F.pad(torch.zeros(height, width), (0, right, 0, below), value=1).roll((-shift, -shift), (0, 1))
    numbers = torch.zeros_like(is_padding)
    if shift:
        parts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        for number, (rows, columns) in enumerate((rows, columns) for rows in parts for columns in parts):
            numbers[rows, columns] = number
    return (2 * numbers + is_padding)[None, ..., None]


def _cut(x: Tensor, side: int) -> Tensor:
    """Cut maps (N, H, W, C) into windows (N * windows, side^2, C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // side, side, width // side, side, channels).transpose(2, 3)
    return x.reshape(-1, side**2, channels)


def _join(windows: Tensor, shape: torch.Size, side: int) -> Tensor:
    """Undo `_cut`; `shape` is that of the maps."""
    n, height, width, channels = shape
    x = windows.reshape(n, height // side, width // side, side, side, channels)
    return x.transpose(2, 3).reshape(shape)
