"""BasicSR models whose training step also distills from a frozen teacher."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import torch
from basicsr.models.sr_model import SRModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mipkd_plugin import config
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import bind
from mipkd_plugin.models.distill_state import gather_random_states, load_state, save_state
from mipkd_plugin.registration import register
from mipkd_plugin.step import StepPlan

if TYPE_CHECKING:
    from basicsr.models.sr_model import SRModel as Toolbox  # what the mixin expects of the class beside it
else:
    Toolbox = object


class DistillMixin(Toolbox):
    """Adds distillation to any BasicSR model class that trains one network ``net_g``.

    ``class MyDistillModel(DistillMixin, MyModel)`` is all it takes; only ``optimize_parameters`` of the
    base class is replaced (pixel and perceptual losses are kept), its ``test``, validation, saving, schedulers and
    EMA are used as they are. Reads ``teacher`` and ``train.distill_opt`` of the option file.

    Raises:
        OptionError: The options of the teacher or of the losses are wrong; all problems at once.
    """

    def init_training_settings(self) -> None:
        """Build teacher and losses, then let the toolbox set up the rest.

        Upstream's ``SRModel.__init__`` makes optimizer and schedulers in here, so the losses must exist before. Random
        numbers used on the way are given back: the student's own stream is that of a run without distillation.
        """
        if isinstance(self.net_g, DataParallel):
            raise config.OptionError([config.launcher_problem(self.opt)])
        config.require_valid_distillation(self.opt)
        cuda = [torch.cuda.current_device()] if self.device.type == 'cuda' else []
        with torch.random.fork_rng(devices=cuda):
            seed = self.opt.get('manual_seed') or 0
            torch.manual_seed(seed)
            self.teacher = config.build_teacher(self.opt).to(self.device)
            losses = config.build_losses(self.opt)
            probe = torch.rand(1, *config.probe_shape(self.opt), device=self.device)
            runner = self.net_g if isinstance(self.net_g, DistributedDataParallel) else None
            self.student_net, self.teacher_net = bind(
                losses, self.get_bare_model(self.net_g), self.teacher, probe, runner)
        self.losses = nn.ModuleList(losses).train()
        for index, loss in enumerate(losses):
            loss.seed(seed + 1_000_003 * self.opt.get('rank', 0) + index)
        self._loss_runners = [self._distributed(loss) for loss in losses]
        self.teacher_fingerprint = config.teacher_fingerprint(self.teacher)
        self._log_setup(losses)
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """The toolbox's optimizer; what the losses do not train themselves joins it as a second group."""
        super().setup_optimizers()
        if len(self.optimizers) != 1:
            raise config.OptionError([config.Problem(
                'model_type', f'{type(self).__name__} has {len(self.optimizers)} optimizers; DistillMixin trains one '
                'network with one optimizer', 'use a model class that trains net_g alone')])
        own = {id(p) for loss in self._losses() for p in loss.own_parameters()}
        parameters = [p for p in self.losses.parameters() if p.requires_grad and id(p) not in own]
        if parameters:
            self.optimizer_g.add_param_group({'params': parameters})

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration: what the losses train themselves, then forward, all terms, backward, Adam, EMA."""
        self.optimizer_g.zero_grad()
        plan = StepPlan.make(self.student_net, self.teacher_net, self.lq, self.gt, current_iter, self.optimizer_g,
                             lambda output, gt: _sum(self.reconstruction_terms(output, gt)))
        prepared = self._prepare(plan)
        step = plan.run()
        self.output = step.student.output
        terms = self.reconstruction_terms(step.student.output, step.gt)
        for runner in self._loss_runners:
            for name, value in runner(step).items():
                terms[_free_name(name, terms)] = value
        total = _sum(terms)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f'iteration {current_iter}: the loss is not finite ('
                + ', '.join(f'{name} = {value.item():.4g}' for name, value in terms.items())
                + '); lower train.optim_g.lr or the weights in train.distill_opt and resume from the last checkpoint')
        total.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(OrderedDict({**terms, **prepared}))
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        """Let losses train what they train themselves; the values of a second such loss are named ``…_2``."""
        own = [loss for loss in self._losses() if loss.own_parameters()]
        return {name if number == 1 else f'{name}_{number}': value
                for number, loss in enumerate(own, 1) for name, value in loss.prepare(plan).items()}

    def reconstruction_terms(self, output: Tensor, gt: Tensor) -> OrderedDict[str, Tensor]:
        """The terms that the toolbox's own SRModel trains on: pixel loss and perceptual loss.

        Args:
            output: S(x) (N, C, sH, sW).
            gt: y, the same shape.
        """
        terms: OrderedDict[str, Tensor] = OrderedDict()
        if self.cri_pix:
            terms['l_pix'] = self.cri_pix(output, gt)
        if self.cri_perceptual:
            perceptual, style = self.cri_perceptual(output, gt)
            terms.update({name: value for name, value in (('l_percep', perceptual), ('l_style', style))
                          if value is not None})
        return terms

    def save(self, epoch: int, current_iter: int) -> None:
        """Save the losses' state to ``distill_<iter>.pth``, then what the toolbox saves, unchanged.

        In this order a training state (which the toolbox writes last) always has its distillation state beside it.
        """
        random_states = gather_random_states(self.losses, self.opt['dist'])
        if self.opt.get('rank', 0) == 0:
            save_state(self._state_path(current_iter), self.losses, self.teacher_fingerprint, random_states)
        super().save(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore the losses' state too; a resume with another teacher is refused."""
        super().resume_training(resume_state)
        path = self._state_path(resume_state['iter'])
        load_state(path, self.losses, self.teacher_fingerprint, self.opt.get('rank', 0))
        get_root_logger().info(f'Loading distillation state from {path}.')

    def _losses(self) -> list[DistillationLoss]:
        return cast(list[DistillationLoss], list(self.losses))

    def _state_path(self, current_iter: int) -> str:
        label = 'latest' if current_iter == -1 else current_iter
        return os.path.join(self.opt['path']['models'], f'distill_{label}.pth')

    def _distributed(self, loss: DistillationLoss) -> nn.Module:
        """Every loss with parameters trains under DDP; its random routes leave some of them unused per rank.

        What a loss trains itself is made equal on all ranks here, but stays out of the gradients that DDP exchanges.
        """
        own = loss.own_parameters()
        if not self.opt['dist'] or sum(p.requires_grad for p in loss.parameters()) == len(own):
            return loss
        device_ids = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        for parameter in own:
            parameter.requires_grad_(False)
        runner = DistributedDataParallel(loss, device_ids=device_ids, find_unused_parameters=True)
        for parameter in own:
            parameter.requires_grad_(True)
        return runner

    def _log_setup(self, losses: list[DistillationLoss]) -> None:
        count = {name: sum(p.numel() for p in net.parameters())
                 for name, net in (('student', self.net_g), ('teacher', self.teacher), ('losses', self.losses))}
        lines = [f'Distillation: student {count["student"]:,d}, teacher {count["teacher"]:,d}, '
                 f'losses (training only) {count["losses"]:,d} parameters.']
        for loss in losses:
            pairs = ', '.join(f'{s} <- {t}' for s, t in loss.pairs) or 'output only'
            lines.append(f'\t{type(loss).__name__}: {pairs}')
        get_root_logger().info('\n'.join(lines))


def _sum(terms: OrderedDict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _free_name(name: str, taken: OrderedDict[str, Tensor]) -> str:
    """``name``, or with a number behind it where an earlier loss has a term of that name."""
    return next(n for n in [name, *(f'{name}_{i}' for i in range(2, len(taken) + 3))] if n not in taken)


@register(MODEL_REGISTRY)
class DistillModel(DistillMixin, SRModel):
    """SRModel with distillation: EDSR, RCAN, RRDBNet, MSRResNet and other convolutional students."""


@register(MODEL_REGISTRY)
class SwinIRDistillModel(DistillMixin, SwinIRModel):
    """SwinIRModel with distillation: pads to the window size in ``test()`` as the toolbox does."""
