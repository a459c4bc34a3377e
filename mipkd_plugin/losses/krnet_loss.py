"""KRNets: meta-learned knowledge representation (meta knowledge distillation, arXiv 2207.08356)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin import require
from mipkd_plugin.archs.krnet_arch import KRNet
from mipkd_plugin.losses.base import DistillationLoss, TapPair, mean
from mipkd_plugin.meta_step import MetaStep
from mipkd_plugin.registration import register
from mipkd_plugin.step import NetPass, Step, StepPlan


@register(LOSS_REGISTRY)
class KRNetLoss(DistillationLoss):
    """λ_kr L_kr: the textures that KRNets find worth learning, matched at each tap pair (mean over the taps).

    The paper's total is L_rec + λ_kd |S(x) − T(x)| + λ_kr L_kr: write this loss and LogitsKDLoss in one list. The
    projections train with the student; the kernel generators φ train themselves in :meth:`prepare`, by a meta step,
    so that following L_kr lowers L_rec. Only the abstract of the paper could be read: what is beyond it, all defaults
    included, is our choice (see :class:`KRNet`, :class:`~mipkd_plugin.meta_step.MetaStep`).

    Args:
        taps: Number of taps K, evenly spaced over both trunks, or a list of [student module, teacher module].
        num_kernels: Textures G, each with a kernel per sample and channel.
        kernel_size: Odd size of the kernels.
        hidden_channels: Width of the generators.
        condition_gradient: Whether L_kr also pulls on the student through the kernels its features gave rise to.
        feature_scale: ``running`` or ``none``.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ_kr. A kernel of L1 norm 1 answers weakly: 20 was measured to be better than 5 and 1, see
            ``experiments/README.md``.
        meta_every: Iterations from one meta step to the next; 0: never, the kernels stay as they were drawn.
        first_order: A meta step without second derivatives.
        inner: ``adam``, ``rmsprop`` or ``sgd``: the rule of the look-ahead step, see
            :class:`~mipkd_plugin.lookahead.InnerStep`.
        inner_lr: Its learning rate; by default the student's current one, or 0.1 (``sgd``).
        meta_lr: Learning rate of φ's own Adam.

    Raises:
        ValueError: An option is out of range.
    """

    needs_taps = True
    why_batch = 'the meta step splits it in two halves (meta_every: 0 takes no meta step)'

    def __init__(self, taps: int | Sequence[Sequence[str]], num_kernels: int = 4, kernel_size: int = 3,
                 hidden_channels: int = 32, condition_gradient: bool = False, feature_scale: str = 'running',
                 momentum: float = 0.01, loss_weight: float = 20.0, meta_every: int = 5, first_order: bool = False,
                 inner: str = 'adam', inner_lr: float | None = None, meta_lr: float = 1e-4) -> None:
        super().__init__(taps)
        self.network_options: dict[str, Any] = {
            'num_kernels': num_kernels, 'kernel_size': kernel_size, 'hidden_channels': hidden_channels,
            'condition_gradient': condition_gradient, 'feature_scale': feature_scale, 'momentum': momentum}
        require.positive(loss_weight=loss_weight)
        KRNet(1, 1, **self.network_options)  # refuses options out of range now, not at the first probe
        self.loss_weight = loss_weight
        self.meta = MetaStep(every=meta_every, first_order=first_order, inner=inner, inner_lr=inner_lr,
                             learning_rate=meta_lr)
        self.smallest_batch = 2 if self.meta.every else 1
        self.networks = nn.ModuleList()

    def objection(self, student: nn.Module) -> tuple[str, str] | None:
        return self.meta.objection(student)

    def build(self, pairs: Sequence[TapPair]) -> None:
        self.networks = nn.ModuleList(
            build_network({'type': 'KRNet', 'student_channels': pair.student.channels,
                           'teacher_channels': pair.teacher.channels, **self.network_options}) for pair in pairs)
        self.meta.train_on(self.own_parameters())

    def own_parameters(self) -> list[nn.Parameter]:
        return [p for network in self._bound() for p in network.generator.parameters()]

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        """Train φ, if it is due: a meta step, which leaves the student and its random numbers untouched.

        Returns:
            ``meta_rec``: L_rec of the batch's second half; empty where no meta step was due.
        """
        if not self.meta.is_due(plan.iteration):
            return {}
        if self._bound()[0].num_batches == 0:
            self._update_scales(plan.teacher)
        return self.meta(plan, self)

    def forward(self, step: Step) -> dict[str, Tensor]:
        self._update_scales(step.teacher)
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

    def _update_scales(self, teacher: NetPass) -> None:
        for network, _, t in self._at_taps():
            network.update_scale(teacher.features[t])

    def _at_taps(self) -> list[tuple[KRNet, str, str]]:
        """(KRNet, student module path, teacher module path) of each tap."""
        return [(network, s, t) for network, (s, t) in zip(self._bound(), self.pairs)]

    def _bound(self) -> list[KRNet]:
        if not self.networks:
            raise RuntimeError('KRNetLoss has no KRNets yet: bind it to a student and a teacher first, see bind()')
        return cast(list[KRNet], list(self.networks))
