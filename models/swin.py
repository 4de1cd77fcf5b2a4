"""Blocks of windowed self-attention over feature maps, as HyCASS has them.

Z. Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
doi 10.1109/ICCV48922.2021.00986; residual groups: J. Liang et al., "SwinIR", ICCVW 2021,
doi 10.1109/ICCVW54120.2021.00210.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 8  # tokens in height and width
MLP_RATIO = 4
MASKED = -100.0  # added to the attention between tokens that are no neighbors


class Grid(NamedTuple):
    """How a feature map is cut into windows.

    Attributes:
        height, width: of the feature map.
        window: height and width of a window; maps are padded to a multiple of it, and attention ignores the padding.
        shift: rows and columns by which the map is rolled.
    """

    height: int
    width: int
    window: int
    shift: int

    @classmethod
    def of(cls, height: int, width: int, is_shifted: bool) -> Grid:
        """Return the grid of a map; where the smaller side is at most `WINDOW`, that is the window, not shifted."""
        side = min(height, width)
        return cls(height, width, min(side, WINDOW), WINDOW // 2 if is_shifted and side > WINDOW else 0)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded map."""
        return self.height + -self.height % self.window, self.width + -self.width % self.window

    def cut(self, x: Tensor) -> Tensor:
        """Cut (N, height, width, C) into windows (N, windows, window^2, C)."""
        rows, columns = self.padded
        x = F.pad(x, (0, 0, 0, columns - self.width, 0, rows - self.height))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        w = self.window
        x = x.reshape(x.shape[0], rows // w, w, columns // w, w, x.shape[-1])
        return x.transpose(2, 3).reshape(x.shape[0], (rows // w) * (columns // w), w * w, x.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """Undo `cut`."""
        (rows, columns), w = self.padded, self.window
        x = windows.reshape(windows.shape[0], rows // w, columns // w, w, w, windows.shape[-1])
        x = x.transpose(2, 3).reshape(windows.shape[0], rows, columns, windows.shape[-1])
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, : self.height, : self.width]

    def mask(self, device: torch.device | None = None) -> Tensor | None:
        """Return what to add to the attention, (windows, window^2, window^2); None where all tokens are neighbors."""
        if not self.shift and self.padded == (self.height, self.width):
            return None
        rows, columns = (
            _regions(size, padded, self.window, self.shift, device)
            for size, padded in zip((self.height, self.width), self.padded, strict=True)
        )
        w = self.window
        regions = rows[:, None] * len(columns) + columns
        regions = regions.unflatten(0, (-1, w)).unflatten(2, (-1, w)).transpose(1, 2).reshape(-1, w * w)
        return torch.where(regions[:, None] != regions[:, :, None], MASKED, 0.0)


def _regions(size: int, padded: int, window: int, shift: int, device: torch.device | None) -> Tensor:
    """Return the part of the rolled map that each position of an axis is in; those of two parts are no neighbors."""
    position = torch.arange(padded, device=device)
    if shift:
        wraps = (position >= padded - window).int() + (position >= padded - shift).int()
        position = (position + shift) % padded
    else:
        wraps = torch.zeros_like(position)
    return 2 * wraps + (position >= size).int()


def relative_positions(window: int, device: torch.device | None = None) -> Tensor:
    """Return the row of `relative_position_bias_table` for two tokens of a window, (window^2, window^2)."""
    side = 2 * WINDOW - 1
    position = torch.arange(window, device=device)
    offset = position[:, None] - position + WINDOW - 1  # from 0 to side - 1 for the largest window
    rows = offset[:, None, :, None].expand(window, window, window, window)
    columns = offset[None, :, None, :].expand(window, window, window, window)
    return (rows * side + columns).reshape(window**2, window**2)


class WindowAttention(nn.Module):
    """Self-attention in windows, with a learned bias for each relative position.

    Args:
        width: channels.
        heads: number of heads.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_positions(WINDOW))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (N, windows, tokens, width) to the same shape; `mask` (windows, tokens, tokens) is added."""
        count, window = x.shape[1], round(x.shape[2] ** 0.5)
        index = self.relative_position_index if window == WINDOW else relative_positions(window, x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        # Fused kernels take four dimensions: windows go to the images, or, where each has its mask, to the heads.
        first = 0 if mask is None else 1
        if mask is not None:
            bias = (bias + mask[:, None]).flatten(0, 1)
        q, k, v = (part.flatten(first, first + 1) for part in (q, k, v))
        if len(x):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        else:  # torch would give the bias no gradient, for which other processes wait
            out = (q @ k.transpose(2, 3) + bias) @ v
        out = out.unflatten(first, (-1, count) if mask is None else (count, -1))
        return self.proj(out.transpose(2, 3).flatten(3))


class MLP(nn.Module):
    """Perceptron of each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Pre-norm transformer block of windows.

    Args:
        width: channels.
        heads: number of heads.
        is_shifted: whether windows are shifted by half of their size.
        drop: probability of skipping the block for an image in training (stochastic depth, arXiv 1603.09382).
        size: height and width of the map for which `attn_mask` is stored.
    """

    attn_mask: Tensor | None

    def __init__(self, width: int, heads: int, is_shifted: bool, drop: float, size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.is_shifted, self.drop, self.size = is_shifted, drop, size
        # Published weights hold the mask of the size that they were trained on.
        self.register_buffer("attn_mask", Grid.of(size, size, is_shifted).mask())

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, H, W, width) to the same shape."""
        grid = Grid.of(x.shape[1], x.shape[2], self.is_shifted)
        stored = (grid.height, grid.width) == (self.size, self.size)
        mask = self.attn_mask if stored else grid.mask(x.device)
        x = x + self._dropped(grid.join(self.attn(grid.cut(self.norm1(x)), mask)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training, replace images by zeros at random and scale the others, so that the expectation stays."""
        if not self.training or not self.drop:
            return x
        keep = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) >= self.drop
        return x * keep / (1 - self.drop)


class ResidualGroup(nn.Module):
    """Blocks of which every second one is shifted."""

    def __init__(self, width: int, heads: int, drops: Sequence[float], size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, bool(number % 2), drop, size) for number, drop in enumerate(drops)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResidualSwin(nn.Module):
    """x + blocks(x) on feature maps (N, width, H, W), without a convolution and a norm after the blocks.

    Args:
        width: channels.
        heads: number of heads.
        drops: probability of skipping each block in training.
        size: height and width of the map in training, see `SwinBlock`.
    """

    def __init__(self, width: int, heads: int, drops: Sequence[float], size: int) -> None:
        super().__init__()
        self.residual_group = ResidualGroup(width, heads, drops, size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_group(x.movedim(1, -1)).movedim(-1, 1)
