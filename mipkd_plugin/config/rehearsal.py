"""Try before a run what BasicSR builds after the check: data sets, samples, one validation of each image size.

A rehearsal uses BasicSR's own classes: each data set gives a sample, ``test()`` of the model runs on small patches with
the sizes that the validation images have, and each metric measures the smallest image. What cannot be rehearsed, such
as ``test()`` of somebody else's model class, is left alone: a rehearsal refuses nothing that might work.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.config.data_set_tables import WITH_KERNELS
from mipkd_plugin.config.dataset_rules import measures_as_basicsr
from mipkd_plugin.config.dataset_samples import Samples, build_samples
from mipkd_plugin.config.degradation_keys import degrades
from mipkd_plugin.config.metrics import check_blocks, check_metrics, metrics_with_gt
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context, Problem
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.validation import check_test
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_FOLDERS_LISTED = ('PairedImageDataset', 'CropPoolDataset')
_MOST_BUILT = 5000
"""Number of pairs up to which a data set of two folders is built: BasicSR compares each name with all others."""

_done: dict[str, list[Problem]] | None = None


@contextmanager
def rehearsed_once() -> Iterator[None]:
    """Inside the block, equal data sets with equal networks and metrics are rehearsed once, however many the checks."""
    global _done
    before = _done
    _done = {} if before is None else before
    try:
        yield
    finally:
        _done = before


def rehearse(ctx: Context, student: nn.Module | None, images: Mapping[str, int]) -> None:
    """Rehearse all data sets, and validation or test.

    Args:
        ctx: Options, and where problems go.
        student: The network that is validated; None leaves its part out.
        images: Number of image pairs by YAML path, of the data sets whose pairs have been checked.
    """
    if not ctx.files or ctx.scale is None or not ctx.clean('scale'):
        return
    student = student if all(map(ctx.clean, ('network_g', 'output', 'model_type'))) else None
    with random_numbers_restored():
        for phase, options in ctx.section('datasets').items():
            where = f'datasets.{phase}'
            if not isinstance(options, Mapping) or not ctx.clean(where):
                continue
            key = _key(ctx, where, student is None)
            if _done is not None and key in _done:
                ctx.problems += _done[key]
                continue
            count = len(ctx.problems)
            if phase == 'train' and ctx.is_train:
                _rehearse_training_set(ctx, where, options, images.get(where))
            elif phase != 'train' and ctx.model_class is not None:
                _rehearse_validation_set(ctx, where, options, student)
            if _done is not None:
                _done[key] = ctx.problems[count:]


def _key(ctx: Context, where: str, without_network: bool) -> str:
    """What the rehearsal of a data set depends on."""
    asked = [ctx.opt.get(key) for key in ('model_type', 'scale', 'network_g', 'output', 'val')]
    own = ctx.section(*where.split('.'))
    return json.dumps([where, own, asked, without_network, ctx.is_train, str(ctx.root)], default=str)


def _rehearse_training_set(ctx: Context, where: str, options: Mapping[str, Any], pairs: int | None) -> None:
    kind = options.get('type')
    reads = bool(owner(ctx.model_class, 'feed_data'))
    needed = ('gt', 'kernel1', 'kernel2', 'sinc_kernel') if degrades(ctx) else ('lq', 'gt')
    if kind in _FOLDERS_LISTED and pairs is None or _number_of_pairs(ctx, options, pairs) > _MOST_BUILT:
        return  # not checked as pairs; or slow to build
    if kind in WITH_KERNELS and (pairs is None or not reads):
        return
    with _samples(ctx, where, options) as samples:
        sample = None if samples is None else samples.take(ctx, 0)
        if samples is None or sample is None or not reads:
            return
        if _check_tensors(ctx, samples, sample, needed) and kind not in _FOLDERS_LISTED and 'lq' in needed:
            _check_shapes(ctx, samples, sample)


def _number_of_pairs(ctx: Context, options: Mapping[str, Any], pairs: int | None) -> int:
    """Number of pairs of a training set that lists two folders."""
    root = options.get('dataroot_gt')
    if options.get('type') in WITH_KERNELS:
        return 0  # it lists no folder
    if pairs is None and options.get('type') == 'RealESRGANPairedDataset' and isinstance(root, str):
        with suppress(OSError):
            return len(os.listdir(ctx.path(root)))
    return pairs or 0


@contextmanager
def _samples(ctx: Context, where: str, options: Mapping[str, Any]) -> Iterator[Samples | None]:
    """A data set inside the block; afterwards its files are closed. None with a problem noted."""
    samples = build_samples(ctx, where, options)
    try:
        yield samples
    finally:
        if samples is not None:
            is_of_others = not type(samples.dataset).__module__.startswith(('basicsr.', 'mipkd_plugin.'))
            samples.close()
            if is_of_others:  # it may hold an LMDB, and no process may open one twice
                samples.dataset = None
                gc.collect()


def _check_tensors(ctx: Context, samples: Samples, sample: Mapping[str, Any], needed: tuple[str, ...]) -> bool:
    """Check that a sample holds what the model reads."""
    kind = samples.options.get('type')
    lacking = [key for key in needed if not isinstance(sample.get(key), Tensor)]
    if lacking:
        holds = ', '.join(map(str, sample))
        ctx.add(f'{samples.where}.type', f'{kind} gives no {" and no ".join(lacking)} (it gives {holds}), and '
                f'{ctx.opt["model_type"]} needs {"them" if len(lacking) > 1 else "it"}',
                'use RealESRGANDataset' if 'kernel1' in needed else
                'use PairedImageDataset, with dataroot_gt and dataroot_lq')
    elif samples.where != 'datasets.train' and 'lq_path' not in sample:
        ctx.add(f'{samples.where}.type', f'{kind} gives no lq_path, and BasicSR names results after it',
                "add 'lq_path' to what __getitem__() returns")
    else:
        return True
    return False


def _check_shapes(ctx: Context, samples: Samples, sample: Mapping[str, Any]) -> None:
    """Check sizes of training samples: HR fits LR, and those of one batch are equal."""
    lq, gt, scale = sample['lq'].shape, sample['gt'].shape, ctx.scale or 1
    if len(lq) != 3 or len(gt) != 3:
        return
    if tuple(gt[1:]) != (scale * lq[1], scale * lq[2]):
        ctx.add(samples.where, f'{samples.options.get("type")} gives LR images of {lq[1]}×{lq[2]} and HR images of '
                f'{gt[1]}×{gt[2]}; scale {scale} needs {scale * lq[1]}×{scale * lq[2]}',
                'fix scale, or the options of the data set')
        return
    last = samples.take(ctx, len(samples) - 1)
    size = samples.options.get('batch_size_per_gpu')
    if last is not None and size != 1 and isinstance(last.get('lq'), Tensor) and last['lq'].shape != lq:
        ctx.add(samples.where, f'{samples.options.get("type")} gives images of different sizes, and a batch needs '
                'equal ones', 'crop them, or write batch_size_per_gpu: 1', {f'{samples.where}.batch_size_per_gpu': 1})


def _rehearse_validation_set(ctx: Context, where: str, options: Mapping[str, Any], student: nn.Module | None) -> None:
    with _samples(ctx, where, options) as samples:
        if samples is not None:
            _validate(ctx, where, options, samples, student)


def _validate(ctx: Context, where: str, options: Mapping[str, Any], samples: Samples,
              student: nn.Module | None) -> None:
    """Validate on the sizes of a data set, and measure its smallest image."""
    validates = ctx.opt.get('val') is not None and measures_as_basicsr(ctx)
    sizes = samples.sizes()
    if options.get('type') == 'SingleImageDataset' and len(sizes) < len(samples):
        broken = [samples.name(index) for index in range(len(samples)) if index not in sizes]
        ctx.add(where, f'cannot be read as images: {", ".join(broken[:3])}'
                + (f' and {len(broken) - 3} more' if len(broken) > 3 else ''), 'fix or remove them')
        return
    smallest = min(sizes, key=lambda index: (min(sizes[index]), sizes[index]), default=0)
    sample = samples.take(ctx, smallest)
    if sample is None or not validates or not _check_tensors(ctx, samples, sample, ('lq', )):
        return
    lq, gt = sample['lq'], sample.get('gt')
    if lq.dim() != 3:
        return
    if not isinstance(gt, Tensor):
        _check_metrics_without_gt(ctx, samples)
    sizes[smallest] = (lq.shape[1], lq.shape[2])
    check_blocks(ctx, samples, sizes)
    if student is None or check_test(ctx, student, samples, sizes, smallest, lq.shape[0]):
        check_metrics(ctx, samples, smallest, lq, gt if isinstance(gt, Tensor) else None)


def _check_metrics_without_gt(ctx: Context, samples: Samples) -> None:
    names = [name for name in metrics_with_gt(ctx) if ctx.clean(f'val.metrics.{name}')]
    if names:
        ctx.add(f'{samples.where}.type', f'{samples.options.get("type")} gives no HR image, and the metric'
                f'{"s" if len(names) > 1 else ""} {", ".join(names)} compare{"s" if len(names) == 1 else ""} with one',
                f'write type: PairedImageDataset, with dataroot_gt; or remove {" and ".join(names)} from val.metrics',
                {f'val.metrics.{name}': REMOVE for name in names})


def check_test_settings(ctx: Context, net: nn.Module | None) -> None:
    """Refuse a test without a block ``val``, and one without weights: random ones would be measured without a word.

    Args:
        ctx: Options, and where problems go.
        net: The network to test, if it could be built.
    """
    if not ctx.is_train and 'val' in ctx.opt and ctx.opt['val'] is None and ctx.clean('val'):
        ctx.add('val', 'is empty, and basicsr test needs it', fix={'val': {'save_img': True, 'suffix': None}})
    if ctx.is_train or net is None or not ctx.inherits('SRModel') or not any(True for _ in net.parameters()):
        return
    if not ctx.section('path').get('pretrain_network_g') and ctx.clean('path'):
        ctx.add('path.pretrain_network_g', 'is missing: the test would measure random weights',
                'name the file of the trained network in pretrain_network_g, such as '
                f'experiments/{ctx.opt.get("name", "RUN")}/models/net_g_latest.pth')
