"""KRNets: meta-learned knowledge representation (meta knowledge distillation, arXiv 2207.08356)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.base import FeatureScale
from mipkd_plugin.archs.krnet_arch import KRNet, RelativeTo, TextureKernelSize
from mipkd_plugin.losses.base import DistillationLoss, TapPair, mean
from mipkd_plugin.losses.inner_step import InnerRule
from mipkd_plugin.losses.meta_step import MetaStep
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.step import Step, StepPlan
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import Count, CountOrZero, PositiveFloat, Share, Taps, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class KRNetLoss(DistillationLoss):
    """λ_kr L_kr: match the textures that KRNets choose, at each tap pair (mean over the taps).

    The paper's total is L_rec + λ_kd |S(x) − T(x)| + λ_kr L_kr: write this loss and LogitsKDLoss in one list. The
    projections train with the student; the kernel generators φ train themselves in :meth:`prepare`, by a meta step,
    so that following L_kr lowers L_rec. Only the abstract of the paper could be read: the rest, all defaults included,
    is our choice (see :class:`KRNet`, :class:`~mipkd_plugin.losses.meta_step.MetaStep`).

    Args:
        taps: Number of taps K, evenly spaced over both trunks, or a list of [student module, teacher module].
        num_kernels: Textures G, each with a kernel per sample and channel.
        kernel_size: Odd size of the kernels.
        hidden_channels: Width of the generators.
        condition_gradient: Whether the gradient of L_kr also reaches the student through its kernels.
        feature_scale: ``running`` or ``none``.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ_kr. Kernels of L1 norm 1 give small textures: 20 was measured to be better than 5 and 1, see
            ``experiments/README.md``.
        meta_every: Iterations from one meta step to the next; 0: never, the kernels stay as they were drawn.
        first_order: A meta step without second derivatives; by default only for students that cannot be
            differentiated twice, which the check and the log then say (our choice).
        inner: ``adam``, ``rmsprop`` or ``sgd``: the rule of the look-ahead step, see
            :class:`~mipkd_plugin.losses.inner_step.InnerStep`.
        inner_lr: Its learning rate; by default the student's current one, or 0.1 (``sgd``).
        meta_lr: Learning rate of φ's own Adam.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.
        relative_to: ``none`` or ``energy``: what the distance of a texture is divided by. With ``energy`` it is a
            share, about four times as large, and wants a smaller ``loss_weight``.

    Raises:
        ArgumentError: An option is out of range.
    """

    needs_taps = True
    min_batch_reason = 'the meta step splits it in two halves (meta_every: 0 takes no meta step)'

    @checked
    def __init__(self, taps: Taps, num_kernels: Count = 4, kernel_size: TextureKernelSize = 3,
                 hidden_channels: Count = 32, condition_gradient: bool = False, feature_scale: FeatureScale = 'running',
                 momentum: Share = 0.01, loss_weight: PositiveFloat = 20.0, meta_every: CountOrZero = 5,
                 first_order: bool | None = None, inner: InnerRule = 'adam', inner_lr: PositiveFloat | None = None,
                 meta_lr: PositiveFloat = 1e-4, resample: Resample | None = None,
                 relative_to: RelativeTo = 'none') -> None:
        super().__init__(taps, resample)
        self.network_options: dict[str, Any] = {
            'num_kernels': num_kernels, 'kernel_size': kernel_size, 'hidden_channels': hidden_channels,
            'condition_gradient': condition_gradient, 'feature_scale': feature_scale, 'momentum': momentum,
            'relative_to': relative_to}
        self.loss_weight = loss_weight
        self.meta = MetaStep(every=meta_every, first_order=first_order, inner=inner, inner_lr=inner_lr,
                             learning_rate=meta_lr)
        self.min_batch_size = 2 if self.meta.every else 1
        self.due_every = max(meta_every, 1)
        self.networks = nn.ModuleList()

    @property
    def note(self) -> str:  # type: ignore[override]
        """Says which form the meta step takes, where the student decides."""
        return self.meta.note

    def learn_from(self, tried: DistillationLoss) -> None:
        """Take over which form of the meta step the student allows."""
        if isinstance(tried, KRNetLoss):
            self.meta.lacking = tried.meta.lacking

    def build(self, pairs: Sequence[TapPair]) -> None:
        """Build a KRNet for each tap pair; the meta step gets their generators."""
        self.networks = nn.ModuleList(
            build_network({'type': 'KRNet', 'student_channels': pair.student.channels,
                           'teacher_channels': pair.teacher.channels, **self.network_options}) for pair in pairs)
        self.meta.train_on(self.self_trained_parameters())

    def scaled_networks(self) -> Sequence[KRNet]:
        """The KRNets."""
        return cast(Sequence[KRNet], self.networks)

    def self_trained_parameters(self) -> list[nn.Parameter]:
        """φ: the kernel generators."""
        return [p for network in self.scaled_networks() for p in network.generator.parameters()]

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        """Train φ, if it is due: a meta step, which leaves the student and its random numbers untouched.

        Returns:
            ``meta_rec``: L_rec of the batch's second half; empty where no meta step was due.
        """
        if not self.meta.is_due(plan.iteration):
            return {}
        self.require_bound()
        if self.scaled_networks()[0].num_batches == 0:
            self.update_scales(plan.teacher)
        return self.meta.forward(plan, self)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_kr``."""
        self.require_bound()
        return {'l_kr': self.loss_weight * mean(
            network(step.student.features[s], step.teacher.features[t]) for network, s, t in self._at_taps())}

    def distance(self, student: NetPass, teacher: NetPass) -> Tensor:
        """λ_kr L_kr as a function of φ, which trains."""
        return self.loss_weight * mean(
            network(student.features[s], teacher.features[t], learn=True) for network, s, t in self._at_taps())

    def gap(self, here: NetPass, there: NetPass, teacher: NetPass) -> Tensor:
        """λ_kr [L_kr(there) − L_kr(here)] as a function of φ, which trains."""
        return self.loss_weight * mean(
            network.gap(here.features[s], there.features[s], teacher.features[t])
            for network, s, t in self._at_taps())

    def _at_taps(self) -> list[tuple[KRNet, str, str]]:
        """(KRNet, student module path, teacher module path) of each tap."""
        return [(network, s, t) for network, (s, t) in zip(self.scaled_networks(), self.pairs)]
