"""Build the teacher, and load its weights: of BasicSR's layout, of official releases, of safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.aggregate import has_aggregate
from mipkd_plugin.config.aggregate_weights import load_aggregated
from mipkd_plugin.config.components import construct
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.teacher_file import filled_teacher, recognized
from mipkd_plugin.config.teachers import context_of, teachers_of
from mipkd_plugin.config.weights import misfit, read_file, select_state
from mipkd_plugin.recognition.errors import RecognitionError
from mipkd_plugin.utils.safetensors_files import read_weights
from mipkd_plugin.utils.weight_files import is_safetensors


def load_teacher(ctx: Context) -> nn.Module | None:
    """Build the teacher and, with ``ctx.files``, load its weights strictly. Problems go to ``ctx``."""
    if has_aggregate(ctx.section('teacher')):
        return load_aggregated(ctx, load_teacher) if ctx.clean('teacher') else None
    options, recognized_before = ctx.section('teacher'), filled_teacher(ctx.opt) is not None
    network = options.get('network')
    if not isinstance(network, Mapping) or lookup(ARCH_REGISTRY, network.get('type')) is None or (
            recognized_before and not ctx.clean('teacher.weights')):  # of another scale factor
        return None
    net: nn.Module | None = construct(ctx, 'teacher.network', network, ARCH_REGISTRY)
    weights, key = options.get('weights'), options.get('param_key')
    if not ctx.files or not isinstance(weights, str) or not (key is None or isinstance(key, str)):
        return net
    path = ctx.path(weights)
    if 'param_key' not in options and not is_safetensors(path):
        key = 'params'
    content = read_file(ctx, 'teacher.weights', path, 'fix the path, or put the teacher there; '
                        'experiments/pretrained_models/README.md in the repository says where published ones come from',
                        read=read_weights)
    state = None if content is None else select_state(
        ctx, 'teacher.weights', 'teacher.param_key', path, content, key)
    if net is not None and state is not None:
        problem = misfit(net, state, ctx.placed('teacher.network'))
        if problem:
            state, problem = under_its_names(net, path, key, state, problem)
        if problem:
            ctx.add('teacher.weights', f'{path} {problem[0]}', problem[1])
        elif check_weights(ctx, 'teacher.weights', path, state, net):
            net.load_state_dict(state)
    return net


def load_teachers(ctx: Context) -> dict[str, nn.Module]:
    """Build all teachers, one or several, and with ``ctx.files`` load their weights. Problems go to ``ctx``.

    Args:
        ctx: The options, whose blocks of teachers have been checked.

    Returns:
        Network by YAML path of its block, ``teacher`` or ``teachers[1]``; those with problems are left out.
    """
    found = {}
    for teacher in teachers_of(ctx.opt):
        own = context_of(ctx, teacher)
        net = load_teacher(own) if own.clean('teacher.network') else None
        if net is not None:
            found[teacher.place] = net
    return found


def under_its_names(net: nn.Module, path: Path, key: str | None, state: dict[str, Tensor],
                     problem: tuple[str, str]) -> tuple[dict[str, Tensor], tuple[str, str] | None]:
    """The weights under the names of the network, if they are recognized: official releases have names of their own.

    Args:
        net: The network.
        path: The file.
        key: Key of the weights in it.
        state: The weights under their own names.
        problem: What does not fit, and the remedy.

    Returns:
        Tensor by name, and what does not fit with the remedy.
    """
    try:
        found = recognized(path, key)
    except RecognitionError:
        return state, problem
    if misfit(net, found.state, 'teacher.network') is None:
        return found.state, None
    return state, (problem[0], f'{problem[1]}; without network it is recognized: {found.network}')
