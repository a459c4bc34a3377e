"""Load the trained weights of a network that an option file describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.aggregate import has_aggregate
from mipkd_plugin.config.components import check_component, check_teacher_network, construct
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context, OptionError, block
from mipkd_plugin.config.teacher_file import with_teacher
from mipkd_plugin.config.teacher_weights import load_teacher, under_its_names
from mipkd_plugin.config.teachers import networks_of
from mipkd_plugin.config.weights import misfit, read_file, select_state
from mipkd_plugin.utils.safetensors_files import read_weights

WHERE = '--weights'
NEWEST = '?'
"""Take the moving average of a file where it has one."""


def load_trained(opt: Mapping[str, Any], weights: str | Path, section: str = 'network_g',
                 param_key: str | None = NEWEST) -> nn.Module:
    """Build a network of an option file, and load the weights of a run strictly.

    Args:
        opt: The options.
        weights: A file such as ``net_g_latest.pth``.
        section: Which network: ``network_g``, or the YAML path of the block of a teacher, as ``teachers[1]``.
        param_key: Key of the file; None if the file itself is the state dict. By default ``params_ema`` where the file
            has it, then ``params``, then the file itself.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        OptionError: The network cannot be built, or the file does not fit it.
    """
    if section != 'network_g' and has_aggregate(block(opt, section)):
        return _load_aggregated({**block(opt, section), 'aggregate': str(weights)}, param_key)
    opt = with_teacher(opt)
    ctx = Context(opt, is_train=True)
    where = section if section == 'network_g' else f'{section}.network'
    network = block(opt, *where.split('.'))
    net: nn.Module | None = None
    if check_component(ctx, where, network, ARCH_REGISTRY):
        net = construct(ctx, where, network, ARCH_REGISTRY)
    path = Path(weights).expanduser()
    content = None if net is None else read_file(ctx, WHERE, path, 'fix the path', read=read_weights)
    key = _key(content) if param_key == NEWEST else param_key
    state = None if content is None else select_state(ctx, WHERE, WHERE, path, content, key)
    if net is None or state is None:
        raise OptionError(ctx.problems, opt)
    problem = misfit(net, state, where)
    if problem is not None and section != 'network_g':
        state, problem = under_its_names(net, path, key, state, problem)
    if problem is not None and where == 'network_g' and _is_teachers(opt, state):
        ctx.add(WHERE, f'{path} holds the weights of the teacher, not of the student {type(net).__name__}',
                f'give a net_g_*.pth of the run, in experiments/{opt.get("name")}/models')
    elif problem is not None:
        ctx.add(WHERE, f'{path} {problem[0]}', problem[1])
    elif check_weights(ctx, WHERE, path, state, net):
        net.load_state_dict(state)
    if ctx.problems:
        raise OptionError(ctx.problems, opt)
    return net.eval()


def _load_aggregated(teacher: Mapping[str, Any], param_key: str | None) -> nn.Module:
    """Build the aggregator of a file with its teachers."""
    named = {key: teacher[key] for key in ('aggregate', 'files') if key in teacher}
    own = with_teacher({'teacher': {**named, **({} if param_key == NEWEST else {'param_key': param_key})}})
    ctx = Context(own, is_train=True, always_distills=True)
    check_teacher_network(ctx)
    net = load_teacher(ctx)
    if net is None or ctx.problems:
        raise OptionError(ctx.problems, own)
    return net.eval()


def _key(content: Any) -> str | None:
    """The key of the weights that a user means: the moving average before the plain weights."""
    return next((key for key in ('params_ema', 'params') if isinstance(content, Mapping) and key in content), None)


def _is_teachers(opt: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether weights fit a teacher to the last shape."""
    aside = Context(opt, is_train=True)
    for where, network in networks_of(opt).items():
        if network and check_component(aside, where, network, ARCH_REGISTRY):
            net = construct(aside, where, network, ARCH_REGISTRY)
            if net is not None and misfit(net, state, where) is None:
                return True
    return False
