"""VGG-19 as a frozen encoder of images, as CSD and DCKD use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH
from torch import Tensor, nn
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from mipkd_plugin.losses.base import LossError
from mipkd_plugin.utils.errors import reason
from mipkd_plugin.utils.weight_files import WeightFileError, only_tensors, read_tensors, unusable

LAYERS = (2, 7, 12, 21, 30)
"""Where torchvision's VGG-19 is cut: behind relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""
SMALLEST = 16
"""Fewest pixels a side: it halves them four times."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PUBLISHED = 'the file of weights'
_FILE = 'vgg19-dcbb9e9d.pth'
_REMEDY = (f'give the path of {_FILE}, from https://download.pytorch.org/models/{_FILE}, or leave '
           'weights out: torchvision then downloads it')


def require_size(encoder: str, images: Tensor, least: int) -> None:
    """Refuse images that an encoder shrinks to nothing.

    Args:
        encoder: What to call it.
        images: Images (N, 3, H, W).
        least: The fewest pixels a side that it takes.

    Raises:
        LossError: The images are smaller.
    """
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise LossError(f'{encoder} takes images of {least}×{least} pixels or more, and these have {height}×{width}',
                        f'train on HR patches of {least} pixels or more: gt_size')


class VGGFeatures:
    """V_1..V_5 of frozen VGG-19, relu1_1 to relu5_1. No module: 50 MB that do not train stay out of checkpoints.

    Args:
        weights: State dict of torchvision's VGG-19 (``features.0.weight``, …), as a file; None: the file that BasicSR's
            perceptual loss reads, ``experiments/pretrained_models/vgg19-dcbb9e9d.pth``, or else torchvision's own
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
        self._scale = tuple(torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        for layer in self.layers.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def __call__(self, images: Tensor) -> list[Tensor]:
        """V_1..V_5 of RGB images (N, 3, H, W) in [0, 1], H and W at least 16; raises a LossError for smaller ones."""
        require_size('VGG-19', images, SMALLEST)
        self.layers.to(images.device)
        self._scale = tuple(tensor.to(images.device) for tensor in self._scale)
        mean, std = (tensor.to(images.dtype) for tensor in self._scale)
        x = (images - mean) / std
        found = []
        for index, layer in enumerate(self.layers.children(), 1):
            x = layer(x)
            if index in LAYERS:
                found.append(x)
        return found


def _read_weights(weights: str | None) -> Mapping[str, Tensor]:
    if weights is None and os.path.isfile(VGG_PRETRAIN_PATH):
        weights = VGG_PRETRAIN_PATH
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
        place = os.path.join(torch.hub.get_dir(), 'checkpoints', _FILE)
        raise WeightFileError(_PUBLISHED, f'of VGG-19 could not be downloaded by torchvision ({reason(error)})',
                              f'download https://download.pytorch.org/models/{_FILE} on another machine and put it '
                              f'there as {place} or {VGG_PRETRAIN_PATH}, or write weights: FILE with its path'
                              ) from error
