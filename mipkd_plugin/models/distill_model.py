"""BasicSR models whose training step also distills from a frozen teacher."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from basicsr.models.sr_model import SRModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mipkd_plugin import config
from mipkd_plugin.checkpoints.distill_state import gather_random_states, load_state, save_state
from mipkd_plugin.checkpoints.files import distill_state_path, label_of
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.networks.step import StepPlan
from mipkd_plugin.utils.registry import register

if TYPE_CHECKING:
    from basicsr.models.sr_model import SRModel as HostModel  # the class that the mixin expects beside it
else:
    HostModel = object


class DistillMixin(HostModel):
    """Adds distillation to any BasicSR model class that trains one network ``net_g``.

    ``class MyDistillModel(DistillMixin, MyModel)`` is all it takes; only ``optimize_parameters`` of the
    base class is replaced (pixel and perceptual losses are kept), its ``test``, validation, saving, schedulers and
    EMA are used as they are. Reads ``teacher`` and ``train.distill_opt`` of the option file.

    Raises:
        OptionError: The options of the teacher or of the losses are wrong; all problems at once.
    """

    def init_training_settings(self) -> None:
        """Build teacher and losses, then let BasicSR set up the rest.

        ``SRModel.__init__`` makes optimizer and schedulers in here, so the losses must exist before. The student's
        random numbers are those of a run without distillation.
        """
        if isinstance(self.net_g, DataParallel):
            raise config.OptionError([config.launcher_problem(self.opt)])
        student = self.get_bare_model(self.net_g)
        distillation = config.build_distillation(self.opt, student)
        self.teacher = distillation.teacher.to(self.device)
        self.teacher_fingerprint = distillation.fingerprint
        self.losses = nn.ModuleList(distillation.losses.values()).to(self.device).train()
        runner = self.net_g if isinstance(self.net_g, DistributedDataParallel) else None
        self.nets = distillation.attach(student, runner)
        seed = self.opt.get('manual_seed') or 0
        for index, loss in enumerate(self._losses()):
            loss.seed(seed + 1_000_003 * self.opt.get('rank', 0) + index)
        self._loss_runners = [self._distributed(loss) for loss in self._losses()]
        self._log_setup()
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """BasicSR's optimizer; the parameters that the losses do not train themselves join it as a second group."""
        super().setup_optimizers()
        if len(self.optimizers) != 1:
            raise config.OptionError([config.Problem(
                'model_type', f'{type(self).__name__} has {len(self.optimizers)} optimizers; DistillMixin trains one '
                'network with one optimizer', 'use a model class that trains net_g alone')])
        own = {id(p) for loss in self._losses() for p in loss.self_trained_parameters()}
        parameters = [p for p in self.losses.parameters() if p.requires_grad and id(p) not in own]
        if parameters:
            self.optimizer_g.add_param_group({'params': parameters})

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration: the losses' own training, then forward, all terms, backward, Adam, EMA."""
        self.optimizer_g.zero_grad()
        plan = self.nets.plan(self.lq, self.gt, self.optimizer_g,
                              lambda output, gt: _sum(self.reconstruction_terms(output, gt)), current_iter)
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
        """Let losses train their own parameters; the values of a second such loss are named ``…_2``."""
        own = [loss for loss in self._losses() if loss.self_trained_parameters()]
        return {name if number == 1 else f'{name}_{number}': value
                for number, loss in enumerate(own, 1) for name, value in loss.prepare(plan).items()}

    def reconstruction_terms(self, output: Tensor, gt: Tensor) -> OrderedDict[str, Tensor]:
        """The terms that BasicSR's SRModel trains on: pixel loss and perceptual loss.

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
        """Save the losses' state to ``distill_<iter>.pth``, then let BasicSR save, unchanged.

        In this order a training state (BasicSR writes it last) always has its distillation state beside it.
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

    def _state_path(self, current_iter: int) -> Path:
        return distill_state_path(self.opt['path']['models'], label_of(current_iter))

    def _distributed(self, loss: DistillationLoss) -> nn.Module:
        """Every loss with parameters trains under DDP; its random routes leave some of them unused per rank.

        Parameters that a loss trains itself start equal on all ranks; DDP does not exchange their gradients.
        """
        own = loss.self_trained_parameters()
        if not self.opt['dist'] or sum(p.requires_grad for p in loss.parameters()) == len(own):
            return loss
        device_ids = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        for parameter in own:
            parameter.requires_grad_(False)
        runner = DistributedDataParallel(loss, device_ids=device_ids, find_unused_parameters=True)
        for parameter in own:
            parameter.requires_grad_(True)
        return runner

    def _log_setup(self) -> None:
        count = {name: sum(p.numel() for p in net.parameters())
                 for name, net in (('student', self.net_g), ('teacher', self.teacher), ('losses', self.losses))}
        lines = [f'Distillation: student {count["student"]:,d}, teacher {count["teacher"]:,d}, '
                 f'losses (training only) {count["losses"]:,d} parameters.']
        for loss in self._losses():
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
    """SwinIRModel with distillation: pads to the window size in ``test()`` as BasicSR does."""
