"""Two real training steps of a loss between two networks, and what the package tapped in them: for architectures.py."""

from __future__ import annotations

import copy
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from benchmarks.architecture_reentry import TrialError, gradient_error, reentry_error
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses import FitNetLoss, KRNetLoss, MiPKDLoss, bind
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.views import View
from mipkd_plugin.utils.errors import MipkdError, is_memory_error
from basicsr.archs import build_network

TAPS = 3
STEPS = 2
BATCH = 2
ROLES = ('student', 'teacher', 'both')
LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    'FitNets': lambda: FitNetLoss(taps=TAPS), 'KRNets': lambda: KRNetLoss(taps=TAPS, meta_every=1),
    'MiPKD': lambda: MiPKDLoss(taps=TAPS)}


class Case(NamedTuple):
    """An architecture at small size.

    Attributes:
        name: Its name in the table.
        build: Whether wide → a new network with at least three blocks.
        taps: What a person would tap: module paths, each a family of equal blocks; ``#`` stands for a number,
            ``*`` for a name.
        scale: Scale factor.
        size: Height and width of the low-resolution images.
        source: Where it comes from.
        note: What is special about it.
    """

    name: str
    build: Callable[[bool], nn.Module]
    taps: tuple[str, ...]
    scale: int = 2
    size: int = 16
    source: str = 'extra'
    note: str = ''

    @property
    def key(self) -> str:
        """Its name among all sources."""
        return f'{self.source}/{self.name}'


def edsr(scale: int, wide: bool) -> nn.Module:
    """The partner of each architecture."""
    return build_network({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16 if wide else 8,
                          'num_block': 4, 'upscale': scale})


def networks(case: Case, role: str) -> tuple[nn.Module, nn.Module]:
    """Student and teacher; in the role ``both`` the same architecture, narrow and wide."""
    torch.manual_seed(0)
    if role == 'student':
        return case.build(False), edsr(case.scale, True)
    return edsr(case.scale, False) if role == 'teacher' else case.build(False), case.build(True)


def images(case: Case, seed: int = 0, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Low- and high-resolution images."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 3, case.size, case.size, generator=generator),
            torch.rand(batch, 3, case.size * case.scale, case.size * case.scale, generator=generator))


def is_right(paths: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether all taps are of the families that a person would tap."""
    patterns = [re.escape(family).replace(r'\#', r'\d+').replace(r'\*', r'[^.]+') for family in expected]
    return bool(paths) and all(any(re.fullmatch(pattern, path) for pattern in patterns) for path in paths)


def short(error: BaseException) -> str:
    """A reason that fits into a table."""
    if is_memory_error(error) or 'of memory at once' in str(error):  # the second: said by the binding
        return 'out of memory'
    text = ' '.join(str(error).split()).replace('|', '/')
    name = '' if isinstance(error, (MipkdError, TrialError, TookTooLongError)) else f'{type(error).__name__}: '
    return f'{name}{text}'


class TookTooLongError(BaseException):
    """A try took too long. No ``Exception``, which what is tried might take for a fault of the network and go on."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Inside the block, ``TookTooLongError`` after so many seconds."""
    def stop(*_: Any) -> None:
        raise TookTooLongError(f'took over {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def train(loss: DistillationLoss, case: Case, student: nn.Module, teacher: nn.Module) -> NetPair:
    """Bind a loss and take real training steps with it.

    Returns:
        Both networks, tapped.

    Raises:
        TrialError: A term is not finite, has no gradient into the layers that run first, or the teacher or the
            images have changed, or a feature was misread.
    """
    with torch.no_grad():
        teacher.eval()(images(case)[0][:1])  # some networks keep merged weights, which are made in eval mode
    before, weights = copy.deepcopy(teacher.state_dict()), list(teacher.parameters())
    nets = bind([loss], student.train(), teacher, images(case)[0][:1])
    for net in nets:
        for info in net.infos.values():
            if info.height != info.width:
                raise TrialError(f'the feature at {info.path} is read as {info.height}×{info.width}, '
                                 'though the images are square')
    own = {id(p) for p in loss.self_trained_parameters()}
    optimizer = torch.optim.Adam([*student.parameters(), *(p for p in loss.parameters() if id(p) not in own)], lr=1e-4)
    batch = 2 * BATCH if loss.self_trained_parameters() else BATCH  # a meta step halves it, as BatchNorm has to bear
    for iteration in range(1, STEPS + 1):
        lq, gt = images(case, iteration, batch)
        take_step(loss, nets, optimizer, lq, gt, iteration)
        if not lq.equal(images(case, iteration, batch)[0]):
            raise TrialError('the batch of images was changed in place')
    changed = [key for key, value in teacher.state_dict().items() if not value.equal(before[key])]
    if changed or any(p.grad is not None for p in weights):
        raise TrialError(f'the teacher has changed: {", ".join(changed) or "it has gradients"}')
    return nets


@contextmanager
def early_weights(net: nn.Module, tap: str) -> Iterator[list[nn.Parameter]]:
    """Weights of what runs inside the block, up to and including the module of the first tap, in this order."""
    found: list[nn.Parameter] = []
    done: list[bool] = []

    def record(module: nn.Module, _: Any) -> None:
        if not done:
            known = {id(p) for p in found}
            found.extend(p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in known)

    handles = [module.register_forward_pre_hook(record) for module in net.modules()]
    handles.append(net.get_submodule(View.of(tap).path).register_forward_hook(lambda *_: done.append(True)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def take_step(loss: DistillationLoss, nets: NetPair, optimizer: torch.optim.Optimizer, lq: Tensor, gt: Tensor,
              iteration: int) -> None:
    """One step, as the model takes it."""
    optimizer.zero_grad()
    plan = nets.plan(lq, gt, optimizer, F.l1_loss, iteration)
    if loss.self_trained_parameters():
        loss.prepare(plan)
    with early_weights(nets.student.net, View.of(loss.pairs[0][0]).path) as early:
        step = plan.run()
    terms = loss(step)
    for name, value in terms.items():
        if not torch.isfinite(value):
            raise TrialError(f'{name} is {value.item()} in step {iteration}')
    torch.stack(list(terms.values())).sum().backward(retain_graph=True)
    if not any(p.grad is not None and bool(p.grad.any()) for p in early):
        raise TrialError(f'no gradient of {", ".join(terms)} reaches the layers before the first tap of the student')
    F.l1_loss(step.student.output, gt).backward()
    optimizer.step()


def try_role(case: Case, loss_name: str, role: str, seconds: int) -> dict[str, Any]:
    """One cell of the table.

    Returns:
        ``result``: ``ok`` or the reason; ``taps``: those that the package chose, by role; ``reentry`` and
        ``gradient``: the errors.
    """
    found: dict[str, Any] = {'result': 'ok', 'taps': {}, 'reentry': None, 'gradient': None}
    started = time.perf_counter()
    loss = None
    try:
        with limited(seconds):
            student, teacher = networks(case, role)
            loss = LOSSES[loss_name]()
            nets = train(loss, case, student, teacher)
            if loss.reenters_network:
                own = [net for net, name in ((nets.student, 'student'), (nets.teacher, 'teacher'))
                       if role in (name, 'both')]
                found['reentry'] = max(reentry_error(net, images(case)[0]) for net in own)
                found['gradient'] = max(gradient_error(net, images(case)[0]) for net in own)
    except (Exception, TookTooLongError) as error:  # noqa: BLE001 - whatever is raised is its line in the table
        found['result'] = short(error)
    pairs = loss.pairs if loss is not None else []
    found['taps'] = {name: [pair[side] for pair in pairs] for side, name in enumerate(('student', 'teacher'))
                     if pairs and role in (name, 'both')}
    found['seconds'] = round(time.perf_counter() - started, 1)
    return found
