"""BasicSR models whose training step also distills from a frozen teacher, or from several."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from basicsr.models.base_model import BaseModel
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
from mipkd_plugin.models.distributed import distributed, with_fixed_buffers
from mipkd_plugin.models.eco import batch_of
from mipkd_plugin.models.gradients import gradient_log
from mipkd_plugin.models.host_step import has_own_step, step_of_host
from mipkd_plugin.models.lesson import lesson_of, terms_of
from mipkd_plugin.models.setup_log import setup_lines
from mipkd_plugin.models.student import StudentMixin
from mipkd_plugin.models.teaching import Teaching
from mipkd_plugin.models.terms import free_name, refuse_not_finite, total_of
from mipkd_plugin.networks.teacher_cache import TeacherCache
from mipkd_plugin.utils.registry import register


class DistillMixin(StudentMixin):
    """Add distillation to any BasicSR model class whose ``net_g`` makes SR images.

    Write ``class MyDistillModel(DistillMixin, MyModel)``. It reads ``teacher`` or ``teachers``, and ``distill_opt``,
    ``distill`` and ``eco`` of ``train``. The step of SRModel gets the distillation terms beside the pixel and
    perceptual losses. A step of the class itself, as a GAN has, runs as it is: the terms join the gradient of the
    generator (:mod:`~mipkd_plugin.models.host_step`). Validation, saving, schedulers, EMA, and a ``test`` of its own
    are kept (that of SRModel pads images, see :class:`StudentMixin`).

    Raises:
        OptionError: The options of teacher or losses have problems; the message lists all of them.
    """

    see_losses: Callable[[Iterable[Tensor]], None] | None = None
    """Takes the terms of each step, before it is applied: who sets this decides about steps that are not finite."""

    see_terms: Callable[[dict[str, Tensor], dict[str, Tensor]], None] | None = None
    """Takes the terms of a step of the host, in its backward pass, and what losses log of their own training."""

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Put a network on the device as BasicSR does; DDP leaves buffers of the student alone that no step changes."""
        wrap = super().model_to_device
        return with_fixed_buffers(net, wrap) if self.opt['dist'] and net is self.net_g else wrap(net)

    def init_training_settings(self) -> None:
        """Build teacher and losses, then let BasicSR set up the rest.

        The losses come first because BasicSR's version of this method makes optimizer and schedulers. The student
        draws the same random numbers as in a run without distillation.

        Raises:
            OptionError: The options have problems, or ``nn.DataParallel`` wraps the student.
        """
        if isinstance(self.net_g, DataParallel):
            raise config.OptionError([config.launcher_problem(self.opt)])
        student = self.get_bare_model(self.net_g)
        config.fill_teacher(self.opt, always=True)
        distillation = config.build_distillation(self.opt, student)
        config.forget_weights()
        self.schedule, self.eco = config.read_schedule(self.opt), config.read_eco(self.opt)
        self.losses = nn.ModuleList(distillation.losses.values()).to(self.device).train()
        runner = self.net_g if isinstance(self.net_g, DistributedDataParallel) else None
        self.teaching = Teaching(self.opt, distillation, student, runner, self.device)
        self.teacher, self.nets = distillation.teacher, next(iter(self.teaching.nets.values()))
        self.teacher_fingerprint = distillation.fingerprint
        seed = self.opt.get('manual_seed') or 0
        losses = self.distillation_losses()
        for index, loss in enumerate(losses):
            loss.seed(seed + 1_000_003 * self.opt.get('rank', 0) + index)
        self.loss_runners = [distributed(loss, self.device) if self.opt['dist'] else loss for loss in losses]
        self._teacher_dismissed = False
        self.log_gradients = gradient_log(self.opt, self.schedule, losses)
        self.own_log: dict[str, Tensor] = {}
        self.crops: Tensor | None = None
        get_root_logger().info('\n'.join(setup_lines(self, distillation.notes)))
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """Make BasicSR's optimizers; a second group of the generator's holds parameters of the losses.

        Parameters that a loss trains itself are in none.

        Raises:
            OptionError: The model class has no ``optimizer_g``.
        """
        super().setup_optimizers()
        if not hasattr(self, 'optimizer_g'):
            raise config.OptionError([config.Problem(
                'model_type', f'{type(self).__name__} has no optimizer_g, and DistillMixin adds the parameters of the '
                'losses to it', 'use a model class that trains net_g with optimizer_g')])
        own = {id(p) for loss in self.distillation_losses() for p in loss.self_trained_parameters()}
        parameters = [p for p in self.losses.parameters() if p.requires_grad and id(p) not in own]
        if parameters:
            self.optimizer_g.add_param_group({'params': parameters})

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch; of a crop pool also the numbers of its crops."""
        super().feed_data(data)
        self.crops = data.get('crop')

    def optimize_parameters(self, current_iter: int) -> None:
        """Run one iteration: losses train their own parameters, then forward, all terms, backward, Adam, EMA.

        A model class with a step of its own, such as a GAN, takes that step, with the terms in it; see
        :mod:`~mipkd_plugin.models.host_step`. An iteration that the schedule ``train.distill`` leaves out is one of
        plain training. Under ``basicsr train`` a step that is not finite is not applied.

        Raises:
            FloatingPointError: The loss is not finite, in a training loop of one's own.
        """
        if has_own_step(super().optimize_parameters):
            step_of_host(self, current_iter, super().optimize_parameters)
            return
        self.optimizer_g.zero_grad()
        terms, prepared = self.training_terms(current_iter)
        total = total_of(terms)
        if self.see_losses is not None:
            self.see_losses([*terms.values(), *prepared.values()])
        else:
            refuse_not_finite(terms, current_iter)
        if self.log_gradients is not None and self.log_gradients.is_due(current_iter):
            self.log_gradients(current_iter, terms, self.get_bare_model(self.net_g))
        torch.autograd.backward(total)
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(OrderedDict({**terms, **prepared}))
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def training_terms(self, current_iter: int) -> tuple[OrderedDict[str, Tensor], dict[str, Tensor]]:
        """Forward pass of an iteration.

        Args:
            current_iter: Number of the iteration, from 1.

        Returns:
            The weighted terms, whose sum the step minimizes, and what losses log of their own training.
        """
        batch = batch_of(self, current_iter)
        if not self.schedule.distills(current_iter):
            self.dismiss_teacher_when_over(current_iter)
            self.output = self.net_g(batch.lq)
            return self.reconstruction_terms(self.output, batch.gt), batch.logged
        lesson = lesson_of(self, current_iter, batch)
        student = self.nets.student(batch.lq)
        self.output = student.output
        terms = self.reconstruction_terms(student.output, batch.gt)
        terms.update(terms_of(self, lesson, student, terms))
        return terms, {**lesson.prepared, **batch.logged}

    @property
    def cache(self) -> TeacherCache | None:
        """The cache of the teacher, or of the first that has one. To set it to None drops all caches."""
        return next(iter(self.teaching.caches.values()), None)

    @cache.setter
    def cache(self, none: None) -> None:
        self.teaching.caches.clear()

    def _teachers_for_pictures(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return self.teaching.upscalers(int(self.opt['scale']))

    def dismiss_teacher_when_over(self, current_iter: int) -> None:
        """Free the teacher in the first iteration from which on nothing needs it."""
        if self._teacher_dismissed or not self.schedule.is_over(current_iter) or (
                self.eco is not None and self.eco.blends(current_iter)):
            return
        self._teacher_dismissed = True
        self.teaching.dismiss()
        several = 's' * (len(self.teaching.nets) > 1)
        get_root_logger().info(f'Distillation is over; training goes on without the teacher{several}.')

    def model_ema(self, decay: float = 0.999) -> None:
        """Update the moving average as BasicSR does, to the last bit, but with two calls for all tensors."""
        if getattr(super().model_ema, '__func__', None) is not BaseModel.model_ema:  # that class has its own way
            super().model_ema(decay)
            return
        average = list(self.net_g_ema.parameters())
        torch._foreach_mul_([p.data for p in average], decay)
        torch._foreach_add_([p.data for p in average],
                            [p.data for p in self.get_bare_model(self.net_g).parameters()], alpha=1 - decay)

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> OrderedDict[str, float]:
        """Make the log of a step, as BasicSR does; that of a host's own step gets the distillation terms."""
        logged = OrderedDict(loss_dict)
        for name, value in self.own_log.items():
            logged[free_name(name, logged)] = value
        return super().reduce_loss_dict(logged)

    def reconstruction_terms(self, output: Tensor, gt: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the terms of BasicSR's SRModel: pixel loss and perceptual loss.

        Args:
            output: S(x) (N, C, sH, sW).
            gt: y, of the same shape.

        Returns:
            The terms by name, in the order of the log.
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
        """Save the losses' state to ``distill_<iter>.pth``, then let BasicSR save its files.

        BasicSR writes the training state last, so every training state has its distillation state.
        """
        random_states = gather_random_states(self.losses, self.opt['dist'])
        if self.opt.get('rank', 0) == 0:
            save_state(self._state_path(current_iter), self.losses, self.teacher_fingerprint, random_states,
                       self.teaching.learned)
        super().save(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Let BasicSR resume, then restore the losses' state. Refuses to resume with another teacher."""
        super().resume_training(resume_state)
        path = self._state_path(resume_state['iter'])
        load_state(path, self.losses, self.teacher_fingerprint, self.opt.get('rank', 0), self.teaching.learned)
        get_root_logger().info(f'Loading distillation state from {path}.')

    def distillation_losses(self) -> list[DistillationLoss]:
        """The losses of ``train.distill_opt``, in the order of the option file."""
        return cast(list[DistillationLoss], list(self.losses))

    def _state_path(self, current_iter: int) -> Path:
        return distill_state_path(self.opt['path']['models'], label_of(current_iter))


@register(MODEL_REGISTRY)
class DistillModel(DistillMixin, SRModel):  # type: ignore[misc]  # BasicSR ships no types
    """SRModel with distillation, for any student: ``test()`` pads images where the network needs it."""


@register(MODEL_REGISTRY)
class SwinIRDistillModel(DistillMixin, SwinIRModel):  # type: ignore[misc]  # BasicSR ships no types
    """SwinIRModel with distillation: ``test()`` pads images to the window size as BasicSR does."""
