"""Networks and models as other people write them; importing this registers them."""

from __future__ import annotations

from typing import Any

import torch
from basicsr.archs.edsr_arch import EDSR
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn


@ARCH_REGISTRY.register()
class ReturnsMore(EDSR):
    """EDSR x2 that returns more than the image."""

    def __init__(self, kind: str, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        sr = super().forward(x)
        return {'list': [x, sr], 'tuple': (sr, x.mean((1, 2, 3))), 'dict': {'loss': x.mean(), 'sr': sr, 'lr': x},
                'small': (x, x)}[self.kind]


@ARCH_REGISTRY.register()
class UnnamedWindows(EDSR):
    """EDSR x2 that takes whole windows alone, and names their size as nobody else does."""

    def __init__(self, split: int, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)
        self.split = split

    def forward(self, x: Tensor) -> Any:
        n, c, height, width = x.shape
        windows = x.view(n, c, height // self.split, self.split, width // self.split, self.split)
        return super().forward(windows.reshape(x.shape)) + nn.functional.interpolate(
            windows.mean((3, 5)), scale_factor=2. * self.split)


@ARCH_REGISTRY.register()
class OneSize(EDSR):
    """EDSR x2 that takes images of one size alone, as networks with learned positions do."""

    def __init__(self, side: int = 16, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)
        self.position = nn.Parameter(torch.zeros(1, 3, side, side))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + self.position)


@ARCH_REGISTRY.register()
class PadsItself(EDSR):
    """EDSR x2 that pads its images to a multiple of 12, as CRAFT does: of patches of 8×8 its features have 12×12."""

    def __init__(self, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)

    def forward(self, x: Tensor) -> Any:
        height, width = x.shape[2:]
        padded = nn.functional.pad(x, (0, -width % 12, 0, -height % 12), 'replicate')
        return super().forward(padded)[..., :2 * height, :2 * width]


@ARCH_REGISTRY.register()
class Gated(EDSR):
    """EDSR x2 with a gate: ``hard``: without a second derivative; ``norm``: with BatchNorm over 1×1.

    ``norm8``: with BatchNorm over patches of 8×8; ``frozen``: all but the last two layers are fixed, as
    convolutions of SPANF are.
    """

    def __init__(self, kind: str, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)
        if kind == 'frozen':
            self.requires_grad_(False)
            self.upsample.requires_grad_(True), self.conv_last.requires_grad_(True)
        norm = nn.BatchNorm2d(num_feat) if 'norm' in kind else nn.Identity()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(num_feat, num_feat, 1), norm,
                                  nn.Hardsigmoid() if kind == 'hard' else nn.Sigmoid())
        if kind == 'norm8':
            self.gate[0] = nn.AvgPool2d(8)
            self.gate.append(nn.Upsample(scale_factor=8))
        if kind != 'frozen':
            self.body[0].register_forward_pre_hook(lambda _, args: (args[0] * self.gate(args[0]), ))


@MODEL_REGISTRY.register()
class OwnTestModel(SRModel):
    """SRModel with a test() of its own, as HATModel is."""

    def test(self) -> None:
        with torch.no_grad():
            self.output = self.net_g(self.lq)


@MODEL_REGISTRY.register()
class StepsItselfModel(SRModel):
    """SRModel with a step of its own."""

    def optimize_parameters(self, current_iter: int) -> None:
        super().optimize_parameters(current_iter)


@ARCH_REGISTRY.register()
class Odd(EDSR):
    """EDSR x2 with something odd in its trunk."""

    def __init__(self, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(3, 3, num_feat, num_block, 2)
        self.extra = nn.Conv2d(num_feat, num_feat, 3, 1, 1)

    def blocks(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(x)
        return self.conv_last(self.upsample(self.conv_after_body(self.blocks(first)) + first))


@ARCH_REGISTRY.register()
class Twice(Odd):
    """Runs one module twice."""

    def blocks(self, x: Tensor) -> Tensor:
        return self.extra(torch.relu(self.extra(self.body(x))))


@ARCH_REGISTRY.register()
class InOneMode(Odd):
    """Runs one module in eval mode alone, or in training alone."""

    def __init__(self, in_training: bool, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(num_feat, num_block)
        self.in_training = in_training

    def blocks(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x + 0 * self.extra(x) if self.training == self.in_training else x


@ARCH_REGISTRY.register()
class Beside(Odd):
    """Computes a feature that the image does not depend on."""

    def blocks(self, x: Tensor) -> Tensor:
        x = self.body[0](x)
        self.extra(x)
        return self.body[1:](x)


@ARCH_REGISTRY.register()
class OverBatch(Odd):
    """Normalizes over the batch in any mode."""

    def blocks(self, x: Tensor) -> Tensor:
        return self.body(x - x.mean((0, 2, 3), keepdim=True))


@ARCH_REGISTRY.register()
class OneByOne(Odd):
    """Takes one image at a time."""

    def blocks(self, x: Tensor) -> Tensor:
        return self.body(x.view(1, self.extra.in_channels, *x.shape[2:]))


@ARCH_REGISTRY.register()
class Drops(Odd):
    """Drops values at random in training, or in any mode."""

    def __init__(self, always: bool = True, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(num_feat, num_block)
        self.always = always

    def blocks(self, x: Tensor) -> Tensor:
        return self.body[1:](nn.functional.dropout(self.body[0](x), 0.1, self.always or self.training))


@ARCH_REGISTRY.register()
class Around(nn.Module):
    """Adds up what its layers return, outside of them: the signal also goes around each."""

    def __init__(self, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, num_feat, 3, 1, 1), nn.Conv2d(num_feat, 12, 3, 1, 1)
        self.layers = nn.ModuleList(nn.Conv2d(num_feat, num_feat, 3, 1, 1) for _ in range(num_block))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return nn.functional.pixel_shuffle(self.tail(x), 2)


@ARCH_REGISTRY.register()
class WritesInTraining(Odd):
    """Overwrites in training what its gradient needs."""

    def blocks(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.body(x))
        if self.training:
            x[:, :2] = 0
        return x


@ARCH_REGISTRY.register()
class CutOff(Odd):
    """Its trunk has no gradient."""

    def blocks(self, x: Tensor) -> Tensor:
        x = self.body[0](x)
        with torch.no_grad():
            x = self.body[1](x)
        return self.body[2:](x)


class Wrapped:
    """Holds a tensor where nobody can see it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Wraps(nn.Module):
    def forward(self, x: Tensor) -> Wrapped:
        return Wrapped(x)


@ARCH_REGISTRY.register()
class Hides(Odd):
    """A module returns an object, and the next one takes it."""

    def __init__(self, num_feat: int = 8, num_block: int = 3) -> None:
        super().__init__(num_feat, num_block)
        self.wraps = Wraps()

    def blocks(self, x: Tensor) -> Tensor:
        return self.body(self.wraps(x).tensor)
