"""Check that a model class takes what the training set gives: images in pairs, or HR images and blur kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.config.data_set_tables import gives_kernels, gives_pairs
from mipkd_plugin.config.degradation_keys import degrades
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import in_words

_ON = 'high_order_degradation'


def check_feeding(ctx: Context, where: str, options: Mapping[str, Any]) -> bool:
    """Check that the model takes what the training set gives; what it would lack, it would miss at the first iteration.

    Args:
        ctx: Where problems go.
        where: YAML path of the training set.
        options: Its options.

    Returns:
        Whether it does, or nobody can tell.
    """
    name, kind, reader = ctx.opt.get('model_type'), options.get('type'), owner(ctx.model_class, 'feed_data')
    if not ctx.is_train or not reader or not ctx.clean('model_type'):
        return True
    if gives_kernels(ctx.opt) and not degrades(ctx):
        if reader in ('RealESRNetModel', 'RealESRGANModel'):
            ctx.add(_ON, f'is {str(ctx.opt[_ON]).lower()}, and so {name} wants LR images; {kind} gives HR images and '
                    'blur kernels alone', f'write {_ON}: true; or use RealESRGANPairedDataset or PairedImageDataset',
                    {_ON: True})
            return False
        remedy, fix = _model_that_degrades(ctx)
        ctx.add(f'{where}.type', f'{kind} gives HR images and blur kernels, but no LR images: {name} makes none itself',
                f'{remedy}, which makes them; or use PairedImageDataset with images from mipkd prepare', fix)
        return False
    if gives_pairs(ctx.opt) and degrades(ctx):
        written = f'{_ON} is on' + ('' if _ON in ctx.opt else ' by default')
        ctx.add(f'{where}.type', f'{kind} gives HR and LR images, but no blur kernels: {name} makes the LR images '
                f'itself, because {written}', f'{in_words({_ON: False})} to train on these LR images; or use '
                'RealESRGANDataset', {_ON: False})
        return False
    return True


def _model_that_degrades(ctx: Context) -> tuple[str, dict[str, Any]]:
    """The model class for HR images and blur kernels that trains as this one does."""
    kind = 'RealESRGAN' if ctx.inherits('SRGANModel') else 'RealESRNet'
    name = f'{kind}DistillModel' if ctx.distills else f'{kind}Model'
    if lookup(MODEL_REGISTRY, name) is not None:
        fix = {'model_type': name}
        return in_words(fix), fix
    return f'write your own class {name}(DistillMixin, {kind}Model) and import it', {}
