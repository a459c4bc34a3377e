"""Building and checking what distills: the teacher, the losses, and whether they fit the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import nn

from mipkd_plugin.config.components import construct, distillation_entries, lookup
from mipkd_plugin.config.datasets import patch_problem
from mipkd_plugin.config.problems import FOREIGN_ERRORS, Context, OptionError, block
from mipkd_plugin.config.weights import misfit, read_file, select_state
from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.losses.binding import bind
from mipkd_plugin.trunk import TapError, resolve_taps

_DEFAULT_PATCH = 48


@dataclass
class Built:
    """What a check built on the way; None or empty where options did not allow it.

    Attributes:
        student: From ``network_g``, with random weights.
        teacher: From ``teacher``.
        losses: YAML path → loss of ``train.distill_opt``.
        pairs: YAML path → tap pairs, as the probe run saw them.
    """

    student: nn.Module | None = None
    teacher: nn.Module | None = None
    losses: dict[str, DistillationLoss] = field(default_factory=dict)
    pairs: dict[str, list[TapPair]] = field(default_factory=dict)


def teacher_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The ``teacher`` block, with ``param_key`` filled in."""
    return {'param_key': 'params', **block(opt, 'teacher')}


def build_teacher(opt: Mapping[str, Any]) -> nn.Module:
    """Build the teacher and load its weights strictly.

    Raises:
        OptionError: It cannot be built, or the file does not fit.
    """
    ctx = Context(opt, is_train=True)
    net = load_teacher(ctx)
    if net is None or ctx.problems:
        raise OptionError(ctx.problems)
    return net


def build_losses(opt: Mapping[str, Any]) -> list[DistillationLoss]:
    """Build the losses of ``train.distill_opt``, not yet bound to any network.

    Raises:
        OptionError: One of them cannot be built.
    """
    ctx = Context(opt, is_train=True)
    losses = [construct(ctx, where, options, LOSS_REGISTRY) for where, options in distillation_entries(opt)]
    if ctx.problems:
        raise OptionError(ctx.problems)
    return losses


def load_teacher(ctx: Context) -> nn.Module | None:
    """Build the teacher; with ``ctx.files`` also load its weights. Problems go to ``ctx``."""
    options = teacher_options(ctx.opt)
    network = options.get('network')
    if not isinstance(network, Mapping) or lookup(ARCH_REGISTRY, network.get('type')) is None:
        return None
    net: nn.Module | None = construct(ctx, 'teacher.network', network, ARCH_REGISTRY)
    weights, key = options.get('weights'), options['param_key']
    if not ctx.files or not isinstance(weights, str) or not (key is None or isinstance(key, str)):
        return net
    path = ctx.path(weights)
    content = read_file(ctx, 'teacher.weights', path, 'mend the path, or put the teacher there; the first '
                        'lines of options/train_MiPKD_*.yml say where published ones come from')
    state = None if content is None else select_state(
        ctx, 'teacher.weights', 'teacher.param_key', path, content, key)
    if net is not None and state is not None:
        problem = misfit(net, state, 'teacher.network')
        if problem:
            ctx.add('teacher.weights', f'{path} {problem[0]}', problem[1])
        else:
            net.load_state_dict(state)
    return net


def probe_shape(opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of a low-resolution training patch; about 48×48 where ``datasets.train`` gives no size."""
    train = block(opt, 'datasets', 'train')
    channels = 1 if train.get('color') == 'y' else 3
    gt_size, scale = train.get('gt_size'), opt.get('scale')
    window = window_size(opt)
    side = window * max(_DEFAULT_PATCH // window, 1)
    if (isinstance(gt_size, int) and isinstance(scale, int) and gt_size > 0 and scale > 0
            and gt_size % (scale * window) == 0):
        side = gt_size // scale
    return channels, side, side


def window_size(opt: Mapping[str, Any]) -> int:
    """What height and width of an LR image must be a multiple of, for student and teacher; 1 without windows."""
    return math.lcm(*_windows(opt).values())


def build_and_fit(ctx: Context, probe: str = 'small') -> Built:
    """Build student, teacher and losses as far as their options are in order; check that they fit together.

    Args:
        ctx: Options, and where problems go.
        probe: Run the networks on a ``small`` patch, on one of ``full`` training size, or ``none``.
    """
    built = Built()
    if ctx.clean('network_g') and isinstance(ctx.opt.get('network_g'), Mapping):
        built.student = construct(ctx, 'network_g', ctx.opt['network_g'], ARCH_REGISTRY)
    if ctx.is_train:
        _check_windows(ctx)
    if ctx.distills and ctx.is_train:
        if ctx.clean('teacher.network'):
            built.teacher = load_teacher(ctx)
        for where, options in distillation_entries(ctx.opt):
            if ctx.clean(where):
                loss = construct(ctx, where, options, LOSS_REGISTRY)
                if loss is not None:
                    built.losses[where] = loss
                    _check_batch(ctx, loss)
    if probe != 'none':
        sizes_fit = [_check_output(ctx, net, where) for net, where in (
            (built.student, 'network_g'), (built.teacher, 'teacher.network')) if net is not None]
        _bind(ctx, built, all(sizes_fit), _small_side(ctx) if probe == 'small' else probe_shape(ctx.opt)[1])
    return built


def _windows(opt: Mapping[str, Any]) -> dict[str, int]:
    """YAML path of a network → its window size, for those that have one."""
    networks = {'network_g': block(opt, 'network_g'), 'teacher.network': block(opt, 'teacher', 'network')}
    found = {where: options.get('window_size') for where, options in networks.items()}
    return {where: size for where, size in found.items() if isinstance(size, int) and size > 0}


def _check_windows(ctx: Context) -> None:
    """Window attention takes no other patches than multiples of its window."""
    gt_size = ctx.section('datasets', 'train').get('gt_size')
    for where, window in _windows(ctx.opt).items():
        problem = patch_problem(gt_size, ctx.scale, window, where)
        if problem and ctx.clean('datasets.train.gt_size'):
            ctx.add('datasets.train.gt_size', *problem)


def _small_side(ctx: Context) -> int:
    """Side of a patch that is quick to run, and a multiple of the windows."""
    return min(probe_shape(ctx.opt)[1], math.lcm(8, *_windows(ctx.opt).values()))


def _check_output(ctx: Context, net: nn.Module, where: str) -> bool:
    """Whether a network runs, and makes images of the size that ``scale`` says. Tries a small input first."""
    channels, patch, _ = probe_shape(ctx.opt)
    failure = ''
    for side in dict.fromkeys((_small_side(ctx), patch)):
        try:
            net.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                shape = tuple(net(torch.zeros(1, channels, side, side)).shape[1:])
        except FOREIGN_ERRORS as error:
            failure = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
            continue
        scale = ctx.scale or 1
        if ctx.scale is None or shape == (channels, side * scale, side * scale):
            return True
        options = ctx.section(*where.split('.'))
        key = next((k for k in ('upscale', 'scale', 'upsampler') if k in options), 'type')
        wanted = (channels, side * scale, side * scale)
        remedy = f'write {key}: {scale}, or mend scale' if key in ('upscale', 'scale') else (
            'use a network of this scale')
        ctx.add(f'{where}.{key}', f'{options["type"]} makes (channels, height, width) = {shape} of '
                f'{channels}×{side}×{side}; with scale {scale} it must be {wanted}',
                remedy if where == 'network_g' else 'use a teacher of this scale')
        return False
    if ctx.is_train:
        ctx.add(where, f'cannot run on patches of {channels}×{patch}×{patch}: {failure}',
                'mend its arguments')
    return False


def _check_batch(ctx: Context, loss: DistillationLoss) -> None:
    size, where = ctx.section('datasets', 'train').get('batch_size_per_gpu'), 'datasets.train.batch_size_per_gpu'
    if isinstance(size, int) and 0 < size < loss.smallest_batch and ctx.clean(where):
        ctx.add(where, f'is {size}, and {type(loss).__name__} needs {loss.smallest_batch} images or more in a batch: '
                f'{loss.why_batch}', f'write batch_size_per_gpu: {loss.smallest_batch}, or more')


def _bind(ctx: Context, built: Built, sizes_fit: bool, side: int) -> None:
    """Check the taps of all losses by name, and in a probe run if both networks make images of one size."""
    if built.student is None or built.teacher is None:
        return
    for where, loss in built.losses.items():
        objection = loss.objection(built.student)
        if objection is not None:
            ctx.add(where, f'{type(loss).__name__}: {objection[0]}', objection[1])
            continue
        try:
            if not sizes_fit:
                resolve_taps(loss.taps, built.student, built.teacher)
                continue
            with torch.random.fork_rng(devices=[]):
                student_net, teacher_net = bind(
                    [loss], built.student, built.teacher, torch.rand(1, probe_shape(ctx.opt)[0], side, side))
            if loss.reenters and not loss.pairs:
                ctx.add(f'{where}.taps', f'{type(loss).__name__} needs at least one', 'write taps: 4, say')
            infos = student_net.infos, teacher_net.infos
            built.pairs[where] = [TapPair(infos[0][s], infos[1][t]) for s, t in loss.pairs]
            student_net.close()
            teacher_net.close()
        except TapError as error:
            for problem in error.problems:
                source = getattr(ctx.opt, 'source', None) or 'FILE.yml'
                ctx.add(f'{where}.taps', problem.removeprefix('taps: '),
                        f'list the modules that can be tapped: mipkd taps -opt {source}')
        except FOREIGN_ERRORS as error:
            ctx.add(where, f'{type(loss).__name__}: {error}', 'mend the entry that it speaks of')
