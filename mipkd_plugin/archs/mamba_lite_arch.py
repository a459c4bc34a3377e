"""A small Mamba-type network for super-resolution: state-space blocks in plain PyTorch, without a CUDA kernel.

The selective scan is that of Mamba (arXiv 2312.00752, section 3), over the four directions of MambaIR (arXiv
2402.15648, figure 3). Distilling such a network is the subject of MambaLiteSR (arXiv 2502.14090).
"""

from __future__ import annotations

import math

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.utils.ranges import Count, checked
from mipkd_plugin.utils.registry import register


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int = 8) -> Tensor:
    """Run h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and y_t = C_t · h_t (equation 2 of Mamba).

    Between two positions of a chunk the state decays by exp of a difference of cumulated sums, which is never above 0:
    nothing overflows, whatever Δ is. The state is handed on from chunk to chunk. Memory grows with ``chunk``.

    Args:
        u: Sequence (N, L, D).
        delta: Step sizes Δ ≥ 0 (N, L, D).
        a: Decay A < 0 (D, S).
        b: B_t (N, L, S).
        c: C_t (N, L, S).
        chunk: Positions computed at once.

    Returns:
        y (N, L, D).
    """
    state = u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
    outputs = []
    for start in range(0, u.shape[1], chunk):
        u_t, delta_t, b_t, c_t = (x[:, start:start + chunk] for x in (u, delta, b, c))
        decay = (delta_t[..., None] * a).cumsum(1)  # log of the decay since the chunk began: (N, T, D, S)
        step = decay[:, :, None] - decay[:, None]  # from position j to position t: (N, T, T, D, S)
        later = torch.ones(step.shape[1:3], dtype=torch.bool, device=u.device).triu(1)
        step = step.masked_fill(later[..., None, None], -torch.inf).exp()
        driven = (delta_t * u_t)[..., None] * b_t[:, :, None]
        states = torch.einsum('ntjds,njds->ntds', step, driven) + decay.exp() * state[:, None]
        outputs.append(torch.einsum('ntds,nts->ntd', states, c_t))
        state = states[:, -1]
    return torch.cat(outputs, dim=1)


class SelectiveStateSpace(nn.Module):
    """S6 of Mamba (algorithm 2): Δ, B and C are projected from the sequence; one for each direction.

    Args:
        width: Width D of the sequence.
        states: States S of each channel.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.states, self.rank = states, math.ceil(width / 16)
        self.project = nn.Linear(width, self.rank + 2 * states, bias=False)
        self.delta = nn.Linear(self.rank, width)
        self.log_decay = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(width, 1))  # S4D-real
        self.skip = nn.Parameter(torch.ones(width))
        steps = torch.exp(torch.rand(width) * math.log(100) + math.log(1e-3))  # Δ from 0.001 to 0.1, as Mamba
        nn.init.uniform_(self.delta.weight, -self.rank**-0.5, self.rank**-0.5)
        self.delta.bias.data.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(self, u: Tensor) -> Tensor:
        """(N, L, D) → (N, L, D)."""
        rank, b, c = self.project(u).split([self.rank, self.states, self.states], dim=-1)
        scanned = selective_scan(u, F.softplus(self.delta(rank)), -self.log_decay.exp(), b, c)
        return scanned + self.skip * u


class StateSpaceBlock(nn.Module):
    """x + block(x): the gated block of Mamba (figure 3), with the scan in four directions.

    Args:
        width: Width C of the feature.
        expand: The inner width is ``expand * width``.
        states: States of each channel.
    """

    def __init__(self, width: int, expand: int, states: int) -> None:
        super().__init__()
        inner = expand * width
        self.norm = nn.GroupNorm(1, width)
        self.enter = nn.Conv2d(width, 2 * inner, 1)
        self.local = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.scans = nn.ModuleList(SelectiveStateSpace(inner, states) for _ in range(4))
        self.leave = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        feature, gate = self.enter(self.norm(x)).chunk(2, dim=1)
        feature = F.silu(self.local(feature))
        rows, columns = feature.flatten(2).mT, feature.mT.flatten(2).mT
        along, back, down, up = self.scans
        size, turned = feature.shape, feature.mT.shape
        scanned = ((along(rows) + back(rows.flip(1)).flip(1)).mT.reshape(size)
                   + (down(columns) + up(columns.flip(1)).flip(1)).mT.reshape(turned).mT)
        out: Tensor = x + self.leave(scanned * F.silu(gate))
        return out


@register(ARCH_REGISTRY)
class MambaLite(nn.Module):
    """Convolution, state-space blocks, convolution with a skip, pixel shuffle; any image size.

    Widths and the layout are our choice: the papers' networks are larger, and need the kernel of ``mamba_ssm``.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        num_feat: Width of the features.
        num_block: Number of state-space blocks.
        expand: Width inside of a block, as a multiple of ``num_feat``.
        num_state: States of each channel.
        upscale: Scale factor.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, num_in_ch: Count = 3, num_out_ch: Count = 3, num_feat: Count = 32, num_block: Count = 4,
                 expand: Count = 1, num_state: Count = 8, upscale: Count = 4) -> None:
        super().__init__()
        self.upscale = upscale
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(StateSpaceBlock(num_feat, expand, num_state) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1),
                                      nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C_out, sH, sW)."""
        first = self.conv_first(x)
        image: Tensor = self.upsample(first + self.conv_after_body(self.body(first)))
        return image
