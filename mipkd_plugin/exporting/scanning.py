"""The selective scan of MambaLite for exports: a loop over the sequence that stays a loop in the graph."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def chunked_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Equation 2 of Mamba, chunk by chunk, for sequences of any length; see ``archs/mamba_lite_arch.py``.

    Args:
        u: Sequence (N, L, D).
        delta: Step sizes (N, L, D).
        a: Decay (D, S).
        b: B_t (N, L, S).
        c: C_t (N, L, S).

    Returns:
        y (N, L, D).
    """
    length = u.shape[1]
    chunks = (length + 7) // 8
    more = chunks * 8 - length  # a step size of 0 changes nothing
    u = torch.cat([u, torch.zeros_like(u[:, :1]).repeat(1, 7, 1)[:, :more]], dim=1)
    delta = torch.cat([delta, torch.zeros_like(delta[:, :1]).repeat(1, 7, 1)[:, :more]], dim=1)
    b = torch.cat([b, torch.zeros_like(b[:, :1]).repeat(1, 7, 1)[:, :more]], dim=1)
    c = torch.cat([c, torch.zeros_like(c[:, :1]).repeat(1, 7, 1)[:, :more]], dim=1)
    later = torch.triu(torch.ones(8, 8, dtype=u.dtype, device=u.device), diagonal=1)
    state = (u[:, 0].unsqueeze(-1) * a.unsqueeze(0)) * 0
    outputs = u[:, :0]
    for number in range(chunks):
        start = number * 8
        decay = (delta[:, start:start + 8].unsqueeze(-1) * a).cumsum(1)
        step = decay.unsqueeze(2) - decay.unsqueeze(1)
        step = (step - later.view(1, 8, 8, 1, 1) * 3e4).exp()  # 3e4 stands for infinity, also in half precision
        driven = (delta[:, start:start + 8] * u[:, start:start + 8]).unsqueeze(-1) * b[:, start:start + 8].unsqueeze(2)
        states = (step * driven.unsqueeze(1)).sum(2) + decay.exp() * state.unsqueeze(1)
        outputs = torch.cat([outputs, (states * c[:, start:start + 8].unsqueeze(2)).sum(-1)], dim=1)
        state = states[:, 7]
    return outputs[:, :length]


@cache
def scripted_scan() -> Any:
    """The scan as a script, whose loop an ONNX file keeps."""
    return torch.jit.script(chunked_scan)
