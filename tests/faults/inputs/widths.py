"""Losses that are too large: their networks are built from the options of the loss once the taps are known."""

from __future__ import annotations

from typing import Any

from faults.harness import BadInput


def too_large(name: str, says: str, **options: Any) -> BadInput:
    return BadInput(name, 'train.distill_opt', (says, 'write smaller numbers for its size'), {
        f'train.distill_opt.{key}': value for key, value in options.items()}, remedy=False)


CASES = [
    too_large('a latent space of ten million', 'MiPKDLoss ', latent_channels=10**7),  # too much for a loss, or for now
    too_large('a latent space of a billion', 'MiPKDLoss asks for 288.00 GB of memory at once', latent_channels=10**9),
    too_large('kernels of a million', 'MiPKDLoss asks for ', kernel_size=10**6 + 1),
    too_large('a hundred thousand layers', 'MiPKDLoss has more than 10,000 tensors of weights', num_layers=10**5,
              kernel_size=1, latent_channels=1),
]
