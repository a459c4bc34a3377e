"""The keys that BasicSR's GAN models and its models for real-world images read, beside those of ``SRModel``.

They follow ``srgan_model.py``, ``esrgan_model.py``, ``realesrnet_model.py`` and ``realesrgan_model.py`` of BasicSR
1.4.2. The examples are the values of https://github.com/xinntao/Real-ESRGAN (options/train_realesrnet_x4plus.yml).
"""

from __future__ import annotations

from typing import Any

from mipkd_plugin.config.data_set_tables import PROBABILITY, first_and_second, gives_kernels, gives_pairs, pair
from mipkd_plugin.config.keys import COUNT, FLAG, INTEGER, MAPPING, Key, Kind, is_number, optional
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context

QUEUE = 180
"""Image pairs that BasicSR mixes the batches from, if ``queue_size`` does not say."""


def _three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(x) and 0 <= x <= 1 for x in value)


_THREE = Kind('three numbers from 0 to 1, which sum to 1: to enlarge, to shrink, to keep the size', _three,
              [0.2, 0.7, 0.1], {'type': 'array', 'minItems': 3, 'maxItems': 3,
                                'items': {'type': 'number', 'minimum': 0, 'maximum': 1}})
_ON = FLAG._replace(example=True)

DEGRADATION = {
    **first_and_second({
        'resize_prob': Key(_THREE, 'train'), 'resize_range': Key(pair(0.15, 1.5), 'train'),
        'gaussian_noise_prob': Key(PROBABILITY, 'train'), 'noise_range': Key(pair(1, 30), 'train'),
        'poisson_scale_range': Key(pair(0.05, 3), 'train'),
        'gray_noise_prob': Key(PROBABILITY._replace(example=0.4), 'train'),
        'jpeg_range': Key(pair(30, 95), 'train')}),
    'second_blur_prob': Key(PROBABILITY._replace(example=0.8), 'train'),
    'gt_size': Key(INTEGER, 'train'),
}
"""What a model reads that makes the LR images of the training itself, at the top level."""
_OF_BOTH = {'high_order_degradation': Key(_ON), 'queue_size': Key(INTEGER._replace(example=QUEUE))}
REAL_ESRNET = {'gt_usm': Key(_ON, 'train'), **DEGRADATION, **_OF_BOTH}
REAL_ESRGAN = {'l1_gt_usm': Key(_ON, 'train'), 'percep_gt_usm': Key(_ON, 'train'), 'gan_gt_usm': Key(FLAG, 'train'),
               **DEGRADATION, **_OF_BOTH}
OF_DEGRADING = frozenset({*REAL_ESRNET, *REAL_ESRGAN})
"""All that Real-ESRGAN's models read at the top level: it decides on which images they train."""
ADVERSARY = {'gan_opt': Key(optional(MAPPING)), 'ldl_opt': Key(optional(MAPPING)),
             'net_d_iters': Key(INTEGER), 'net_d_init_iters': Key(COUNT)}
"""What a GAN model reads from ``train``; its discriminator adds ``optim_d``."""
TABLES: dict[str, dict[str, dict[str, Key]]] = {
    'RealESRNetModel': {'': REAL_ESRNET}, 'RealESRGANModel': {'': REAL_ESRGAN},
    'SRGANModel': {'': {'network_d': Key(MAPPING)}, 'train': ADVERSARY}}
"""Further keys by the name of the model class, and by section."""
_ALWAYS = ('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm')


def degrades(ctx: Context) -> bool:
    """Whether the model makes the LR images of its training itself, as Real-ESRGAN does."""
    return (owner(ctx.model_class, 'feed_data') in ('RealESRNetModel', 'RealESRGANModel')
            and bool(ctx.opt.get('high_order_degradation', True)))


def model_keys(ctx: Context) -> dict[str, dict[str, Key]]:
    """The keys that a model class reads beside those of ``SRModel``, by section; '' is the top level.

    Where it does not make LR images, it needs none of the keys for that. Where the data set is for such a model and the
    model is another one, they are known: what is wrong is the model.

    Args:
        ctx: The options, and the model class.

    Returns:
        Tables of keys.
    """
    found: dict[str, dict[str, Key]] = {}
    for name, sections in TABLES.items():
        if ctx.inherits(name):
            for section, keys in sections.items():
                found.setdefault(section, {}).update(keys)
    top = found.setdefault('', {})
    if gives_kernels(ctx.opt) and not ctx.inherits('RealESRNetModel') and not ctx.inherits('RealESRGANModel'):
        top.update({key: Key(entry.kind) for key, entry in {**REAL_ESRGAN, **REAL_ESRNET}.items()})
    needs_all = degrades(ctx) and not gives_pairs(ctx.opt)
    is_known = bool(owner(ctx.model_class, 'optimize_parameters'))
    return {**found, '': {key: entry if needs_all or key in _ALWAYS and is_known else Key(entry.kind)
                          for key, entry in top.items()}}

