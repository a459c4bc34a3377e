"""What a state dict seems to be, when no network that can be built fits it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from mipkd_plugin.utils.words import some

_LONGEST = 80  # letters of a name in a message
_OTHER = 'give the weights of a network that enlarges images'
_GENERATOR = 'give the generator that was trained with it: net_g_*.pth'
OWN = ('if it is a network of your own, write its class and arguments yourself, as teacher: {network: {type: …}, '
        'weights: …}, and name the file of the class in imports')
"""The remedy for networks that nobody knows."""


class _Kind(NamedTuple):
    """A kind of network, and names that give it away: patterns, all of which some name must match from its start."""

    what: str
    patterns: tuple[str, ...]
    remedy: str = _OTHER


_KINDS = (
    _Kind('the discriminator of a GAN', (r'.*\.weight_orig$', ), _GENERATOR),
    _Kind('the discriminator of a GAN', (r'conv0_0\.weight$', r'linear1\.weight$'), _GENERATOR),
    _Kind('the discriminator of a GAN', (r'conv0\.weight$', r'conv9\.weight$'), _GENERATOR),
    _Kind('an adapter (LoRA) of another network', (r'.*\blora_', )),
    _Kind('a diffusion model', (r'(model\.)?(diffusion_model|down_blocks)\.', )),
    _Kind('a language model', (r'(.*\.)?(lm_head|embed_tokens|word_embeddings|wte)\.weight$', )),
    _Kind('CLIP', (r'(visual|vision_model)\.', r'(token_embedding|text_model|transformer)\.')),
    _Kind('a detector (YOLO)', (r'(model\.)?(model\.)?\d+\.(dfl|anchors|anchor_grid|m\.0|cv2\.0\.0|cv3\.0\.0)\b', )),
    _Kind('a detector', (r'(roi_heads|rpn|bbox_head|class_embed|head\.classification_head)\.', )),
    _Kind('a network for video, which takes several images at once',
          (r'(spynet|pcd_align|forward_trunk|backward_trunk|deform_align)\.', )),
    _Kind('SpyNet, a network for optical flow', (r'basic_module\.0\.', )),
    _Kind('a generator of StyleGAN2', (r'style_(mlp|conv1)\.', )),
    _Kind('LPIPS, a metric', (r'lin0\.model\.', )),
    _Kind('MDSR of EDSR-PyTorch', (r'pre_process\.0\.', r'head\.0\.'), OWN),
    _Kind('RDN', (r'SFENet1\.', ), OWN),
    _Kind('DDBPN', (r'initial\.', r'upmodules\.', ), OWN),
    _Kind('IMDN', (r'IMDB1\.', ), OWN),
    _Kind('RFDN', (r'B1\.c1_d\.', ), OWN),
    _Kind('CARN', (r'entry\.', r'b1\.b1\.', r'upsample\.'), OWN),
    _Kind('FSRCNN', (r'first_part\.', r'mid_part\.', r'last_part\.'), OWN),
    _Kind('HAN of the official release', (r'csa\.', r'la\.gamma'), OWN),
)
_CLASSIFIERS = (
    ('a ResNet that classifies images', 'layer1.0.conv1.weight', r'fc\.weight$'),
    ('a VGG or AlexNet that classifies images', 'features.0.weight', r'classifier(\.\d+)?\.weight$'),
    ('a vision transformer that classifies images', 'cls_token', r'(head|heads\.head|fc)\.weight$'),
    ('a vision transformer that classifies images', 'class_token', r'(head|heads\.head|fc)\.weight$'),
    ('a network that classifies images', '', r'(head|fc|classifier|linear)(\.\d+)*(\.fc)?\.weight$'))


def seems(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Say what a state dict seems to be.

    Args:
        state: Tensor by name.

    Returns:
        The rest of a sentence that starts with the file's name, and what to do.
    """
    for kind in _KINDS:
        if all(any(re.match(pattern, name) for name in state) for pattern in kind.patterns):
            ending = ', which neither BasicSR nor spandrel has' if kind.remedy == OWN else ''
            return f'seems to hold {kind.what}{ending}', kind.remedy
    return _classifier(state) or (f'holds {len(state)} tensors ({_first(state)}), and no network that is known here '
                                  'has these names', OWN)


def _classifier(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    for what, name, pattern in _CLASSIFIERS:
        last = [state[own] for own in state if re.match(pattern, own) and state[own].dim() == 2]
        if last and (not name or name in state):
            return f'seems to hold {what} ({last[-1].shape[0]:,d} classes)', _OTHER
    if 'layer1.0.conv1.weight' in state:
        return 'seems to hold a ResNet, which recognizes things in images', _OTHER
    return None


def _first(state: Mapping[str, Tensor]) -> str:
    names = {name: name if len(name) < _LONGEST else f'{name[:_LONGEST - 3]}…' for name in state}
    return some(f'{short} {"×".join(map(str, state[name].shape)) or "of one number"}' for name, short in names.items())
