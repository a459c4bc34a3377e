"""How a frozen network runs: its number format, its memory layout, and whether it is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.features import NetPass


@dataclass(frozen=True)
class Execution:
    """How a frozen network runs. The default changes nothing.

    Images and features are cast on the way in and come back contiguous and in the type they had, so nobody else sees
    another type. Inside, the weights are cast and ``torch.autocast`` is on: what a network makes in float32 for itself
    (SwinIR its attention mask for a size other than ``img_size``) meets the type of the weights.

    Attributes:
        dtype: Number format of weights and features: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``.
        channels_last: Whether weights and maps lie in memory as (N, H, W, C).
        compile: Whether full passes run through ``torch.compile``, all but the first one. Passes that enter the network
            in the middle never do.
    """

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        """The options that differ from the default, or ``float32``."""
        parts = [str(self.dtype).removeprefix('torch.')] if self.dtype != torch.float32 else []
        parts += ['channels_last'] * self.channels_last + ['compiled'] * self.compile
        return ', '.join(parts) or 'float32'

    @property
    def casts(self) -> bool:
        """Whether weights, images and features change their type or layout."""
        return self.channels_last or self.dtype != torch.float32

    def prepare(self, net: nn.Module) -> None:
        """Cast the weights of a network in place. A cast to 16 bits cannot be undone."""
        if self.casts:
            net.to(self.dtype)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)

    def runner(self, net: nn.Module) -> Callable[[Tensor], Tensor]:
        """What to call for a full pass of a network: the network itself, or a compiled form of it."""
        return _Compiled(net) if self.compile else net

    def run(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call a function of this network on tensors, cast on the way in and on the way back.

        Gradients pass through. Those of a loss, a mean over many numbers, are too small for float16: inside, they are
        multiplied by a power of 2, so that the largest of them begins at 16 to 32 (our choice).

        Args:
            function: Takes the tensors and returns one.
            inputs: Images or maps (N, C, H, W), or tokens (N, HW, C), of one type.

        Returns:
            What the function returns, in the type of the inputs.
        """
        if not self.casts:
            return function(*inputs)
        scale = _GradientScale() if self.dtype == torch.float16 else None
        with self._autocast(inputs[0].device.type):
            output = function(*(self._enter(x if scale is None else scale.entering(x)) for x in inputs))
        output = self.leave(output, inputs[0].dtype)
        return output if scale is None else scale.leaving(output)

    def leave(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Cast what the network has made, contiguous as its own float32 maps are; tokens keep their strides."""
        if not self.casts:
            return x
        return x.to(dtype, memory_format=torch.contiguous_format if x.dim() == 4 else torch.preserve_format)

    def _enter(self, x: Tensor) -> Tensor:
        last = self.channels_last and x.dim() == 4
        return x.to(self.dtype, memory_format=torch.channels_last if last else torch.preserve_format)

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(device, self.dtype)


PLAIN = Execution()
"""A network as it is."""


@dataclass(frozen=True)
class Difference:
    """How far one pass of a network is from another pass over the same images.

    Attributes:
        output_max: Largest absolute difference of the two outputs, images in [0, 1].
        output_mean: Mean absolute difference.
        psnr: PSNR between the two outputs, not clamped, in dB; infinite if they are equal.
        features: Module path → ‖a − b‖₂ / ‖b‖₂ of the feature there.
    """

    output_max: float
    output_mean: float
    psnr: float
    features: Mapping[str, float]

    @property
    def finite(self) -> bool:
        """Whether the outputs and features were finite."""
        return all(map(math.isfinite, (self.output_max, *self.features.values())))


def difference(run: NetPass, reference: NetPass) -> Difference:
    """Measure how far ``run`` is from ``reference``, with the same taps over the same images."""
    gap = (run.output - reference.output).double().abs()
    error = gap.square().mean().item()
    psnr = math.inf if error == 0 else -10 * math.log10(error) if math.isfinite(error) else math.nan
    return Difference(gap.max().item(), gap.mean().item(), psnr, {
        path: _relative(feature.double(), reference.features[path].double())
        for path, feature in run.features.items()})


def _relative(a: Tensor, b: Tensor) -> float:
    gap, size = (a - b).norm().item(), b.norm().item()
    return gap / size if size else gap and math.inf


class _GradientScale:
    """Makes gradients larger between the output and the inputs of one call, and takes it back at the inputs."""

    def __init__(self) -> None:
        self._factor = torch.ones(())

    def leaving(self, output: Tensor) -> Tensor:
        """The output; the way back begins here."""
        return self._hooked(output, self._enlarge)

    def entering(self, x: Tensor) -> Tensor:
        """An input; the way back ends here."""
        return self._hooked(x, lambda gradient: gradient / self._factor)

    def _enlarge(self, gradient: Tensor) -> Tensor:
        exponent = gradient.detach().abs().amax().log2().floor().clamp(-60, 60)
        self._factor = torch.exp2(4 - exponent)
        return gradient * self._factor

    @staticmethod
    def _hooked(x: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
        if not x.requires_grad:
            return x
        x = x.view_as(x)  # not the caller's own tensor: its hooks are its own business
        x.register_hook(hook)  # type: ignore[no-untyped-call]
        return x


class _Compiled:
    """The full pass of a network, compiled.

    The first pass runs uncompiled, because networks replace attributes in it (EDSR its mean, by one of the images'
    type), and each replaced attribute would mean a second compilation.
    """

    def __init__(self, net: nn.Module) -> None:
        def forward(lq: Tensor) -> Tensor:
            image: Tensor = net(lq)
            return image

        # PyTorch keeps compiled code by code object, a few versions of each, and promises no look at changed hooks:
        # every wrapper needs a code object of its own
        own = FunctionType(forward.__code__.replace(), forward.__globals__, forward.__name__, None, forward.__closure__)
        self._net, self._forward, self._is_first = net, torch.compile(own), True

    def __call__(self, lq: Tensor) -> Tensor:
        if self._is_first:
            self._is_first = False
            return self._net(lq)  # type: ignore[no-any-return]
        return self._forward(lq)  # type: ignore[no-any-return]
