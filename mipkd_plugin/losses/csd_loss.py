"""CSD: towards compact single image super-resolution via contrastive self-distillation (IJCAI 2021, 2105.11683)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.errors import reason
from mipkd_plugin.utils.ranges import Count, PositiveFloat, Weight, checked
from mipkd_plugin.utils.registry import register
from mipkd_plugin.utils.weight_files import WeightFileError, only_tensors, read_tensors, unusable

LAYERS = (2, 7, 12, 21, 30)
"""Where torchvision's VGG-19 is cut: behind relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALLEST_DISTANCE = 1e-7
_PUBLISHED = 'the file of weights'
_REMEDY = ('give the path of vgg19-dcbb9e9d.pth, from https://download.pytorch.org/models/vgg19-dcbb9e9d.pth, or leave '
           'weights out: torchvision then downloads it')


class VGGFeatures:
    """V_1..V_5 of frozen VGG-19, relu1_1 to relu5_1. No module: 50 MB that do not train stay out of checkpoints.

    Args:
        weights: State dict of torchvision's VGG-19 (``features.0.weight``, …), as a file; None: torchvision's own
            ImageNet weights, from its cache or downloaded.

    Raises:
        WeightFileError: They are missing or do not fit; the message says what to do.
    """

    def __init__(self, weights: str | None = None) -> None:
        with torch.device('meta'):
            layers = make_layers(cfgs['E'], batch_norm=False)[:LAYERS[-1]]
        own = {name.removeprefix('features.'): value for name, value in _read_weights(weights).items()
               if name.startswith('features.')}
        wanted = {name: tuple(value.shape) for name, value in layers.state_dict().items()}
        wrong = [name for name, shape in wanted.items() if name not in own or tuple(own[name].shape) != shape]
        if wrong:
            raise WeightFileError(str(weights or _PUBLISHED), 'does not hold the weights of VGG-19: '
                                  f'{len(wrong)} tensors are missing or of another shape, the first is features.'
                                  f'{wrong[0]}', _REMEDY)
        spoiled = [f'features.{name} {reason}' for name in wanted if (reason := unusable(own[name], torch.zeros(())))]
        spoiled += [f'features.{name} holds NaN or infinity' for name in wanted
                    if not spoiled and not torch.isfinite(own[name]).all()]
        if spoiled:
            raise WeightFileError(str(weights or _PUBLISHED), f'has values that VGG-19 cannot use: {spoiled[0]}',
                                  _REMEDY)
        layers.load_state_dict({name: own[name].float() for name in wanted}, assign=True)
        self.layers: nn.Module = layers.eval().requires_grad_(False)
        for layer in self.layers.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def __call__(self, images: Tensor) -> list[Tensor]:
        """V_1..V_5 of RGB images (N, 3, H, W) in [0, 1], H and W at least 16."""
        self.layers.to(images.device)
        x = (images - images.new_tensor(_MEAN).view(3, 1, 1)) / images.new_tensor(_STD).view(3, 1, 1)
        found = []
        for index, layer in enumerate(self.layers.children(), 1):
            x = layer(x)
            if index in LAYERS:
                found.append(x)
        return found


def _read_weights(weights: str | None) -> Mapping[str, Tensor]:
    if weights is not None and not os.path.isfile(weights):
        raise WeightFileError(weights, 'is not a file' if os.path.exists(weights) else 'does not exist', _REMEDY)
    try:
        content: Any = _published() if weights is None else read_tensors(weights)
    except WeightFileError as error:
        raise (error if weights is None else WeightFileError(weights, error.what, _REMEDY)) from error
    pairs = content.items() if isinstance(content, Mapping) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)}


def _published() -> Any:
    """The weights of torchvision, from its cache or downloaded; no code runs from the file."""
    try:
        with only_tensors():
            return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except WeightFileError as error:
        raise WeightFileError(error.path, f'(VGG-19 in the cache of torchvision) {error.what}',
                              'delete this file: torchvision then downloads it again') from error
    except (OSError, RuntimeError, EOFError) as error:
        raise WeightFileError(_PUBLISHED, f'of VGG-19 could not be downloaded by torchvision ({reason(error)})',
                              'write weights: FILE with the path of vgg19-dcbb9e9d.pth') from error


def contrast(anchor: Sequence[Tensor], positive: Sequence[Tensor], negative: Sequence[Tensor],
             layer_weights: Sequence[float], num_negatives: int | None = None) -> Tensor:
    """Compute Σ_i w_i |V_i(S) − V_i(T)| / mean over the negatives of |V_i(S) − V_i(neg)|.

    Args:
        anchor: V_1..V_5 of the student's images, each (N, C_i, H_i, W_i).
        positive: V_1..V_5 of the teacher's images.
        negative: V_1..V_5 of one negative per sample; the negatives of a sample are the ones of the other samples.
        layer_weights: w_i.
        num_negatives: How many of the others to take; None: all N − 1.

    Returns:
        A scalar.
    """
    count = len(anchor[0]) - 1 if num_negatives is None else min(num_negatives, len(anchor[0]) - 1)
    terms = []
    for weight, a, p, n in zip(layer_weights, anchor, positive, negative):
        away = torch.stack([(a - n.roll(shift, 0)).abs().mean() for shift in range(1, count + 1)]).mean()
        terms.append(weight * (a - p).abs().mean() / (away + _SMALLEST_DISTANCE))
    return torch.stack(terms).sum()


@register(LOSS_REGISTRY)
class CSDLoss(DistillationLoss):
    """λ · Σ_i w_i |V_i(S) − V_i(T)| / mean_neg |V_i(S) − V_i(neg)|, w = 1/32, 1/16, 1/8, 1/4, 1.

    The contrastive term of CSD alone: the paper trains the student as a slice of the teacher's channels jointly with
    it, and a frozen teacher rules that out. V_i are features of VGG-19; negatives are the LR images of the
    batch's other samples, upsampled bicubically. As in the authors' code (github.com/Booooooooooo/CSD at ab8570f)
    distances are means over the batch. Its λ = 200 goes with images in [0, 255], as our 1 with [0, 1]. Images are
    normalized as VGG-19 was trained (our choice).

    Args:
        weights: File with torchvision's VGG-19 (``vgg19-dcbb9e9d.pth``); None: torchvision downloads it.
        num_negatives: Negatives a sample; None: all others of the batch (the paper has 10).
        layer_weights: w_1..w_5.
        loss_weight: λ of ``l_csd``.

    Raises:
        ArgumentError: An option is out of range.
        WeightFileError: The weights are missing or do not fit.
    """

    min_batch_size = 2
    min_batch_reason = 'the negatives of a sample are the other ones'

    @checked
    def __init__(self, weights: str | None = None, num_negatives: Count | None = None,
                 layer_weights: Annotated[Sequence[Weight], Field(min_length=5, max_length=5)] = (
                     1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__()
        if not any(layer_weights):
            raise ValueError('layer_weights are all 0: nothing would be distilled')
        self.vgg = VGGFeatures(weights)
        self.num_negatives = num_negatives
        self.layer_weights = list(layer_weights)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the term.

        Returns:
            ``l_csd``.

        Raises:
            ValueError: The images are not RGB.
        """
        if step.student.output.shape[1] != 3:
            raise ValueError(f'CSDLoss needs RGB images, as VGG-19 does, got {step.student.output.shape[1]} channels')
        with torch.no_grad():
            upsampled = F.interpolate(step.lq, step.gt.shape[2:], mode='bicubic', align_corners=False)
            positive, negative = self.vgg(step.teacher.output), self.vgg(upsampled)
        anchor = self.vgg(step.student.output)
        return {'l_csd': self.loss_weight * contrast(anchor, positive, negative, self.layer_weights,
                                                     self.num_negatives)}
