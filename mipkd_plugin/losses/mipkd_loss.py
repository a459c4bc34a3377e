"""MiPKD: multi-granularity mixture of priors knowledge distillation (arXiv 2404.02573, ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.base import FeatureScale
from mipkd_plugin.archs.feature_mixer_arch import Encoders, FeaturePriorMixer, LatentWidth, MaskType
from mipkd_plugin.losses.base import RandomizedLoss, TapPair, logits_distance, mean
from mipkd_plugin.losses.block_chain import BlockPriorMixer
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import Count, OddSize, PositiveFloat, Share, Taps, Weight, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class MiPKDLoss(RandomizedLoss):
    """λ_kd |S(x) − T(x)| + λ_feat L_feat + λ_ae L_ae + λ_block L_block.

    L_feat and L_ae come from a feature prior mixer at each tap pair (mean over the taps), L_block = |O − T(x)| from
    the block prior mixer's image O. λ_feat = 1 and λ_block = 0.1 are the paper's best (table 10); λ_kd = λ_ae = 1 is
    our choice, as are the defaults that :class:`FeaturePriorMixer` and :class:`BlockPriorMixer` mark so.
    A term whose weight is 0 is not computed.

    Args:
        taps: Number of taps K, evenly spaced over both trunks, or a list of [student block, teacher block].
        latent_channels: Width Z of the latent space: a number, or the width of the ``teacher`` (our choice) or the
            ``student``.
        mask_ratio: ρ, share of the student in the mixed feature.
        mask_type: ``3d``, ``channel`` or ``pixel``.
        encoders: ``separate`` or ``shared``.
        route_probability: P(R_k = 1), the probability that a stretch runs through the student's blocks.
        remix: Whether the chain is mixed again at each tap.
        feature_scale: ``running`` or ``none``.
        num_layers: Convolutions per encoder and decoder.
        kernel_size: Size of their kernels.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: Common factor on all terms.
        kd_weight: λ_kd of ``l_logits``.
        feat_weight: λ_feat of ``l_feat``.
        ae_weight: λ_ae of ``l_ae``.
        block_weight: λ_block of ``l_block``.
        block_every: Run the chain in each n-th iteration only: those whose number it divides (our choice).
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`;
            needs ``block_weight: 0``, as no resampled feature can re-enter a network.

    Raises:
        ArgumentError: An option is out of range.
        ValueError: All weights are 0, or all that reach the student.
    """

    needs_taps = True

    @checked
    def __init__(self, taps: Taps = 4, latent_channels: LatentWidth = 'teacher', mask_ratio: Share = 0.8,
                 mask_type: MaskType = '3d', encoders: Encoders = 'separate', route_probability: Share = 0.5,
                 remix: bool = True, feature_scale: FeatureScale = 'running', num_layers: Count = 1,
                 kernel_size: OddSize = 3, momentum: Share = 0.01, loss_weight: PositiveFloat = 1.0,
                 kd_weight: Weight = 1.0, feat_weight: Weight = 1.0, ae_weight: Weight = 1.0,
                 block_weight: Weight = 0.1, block_every: Count = 1, resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        self.mixer_options: dict[str, Any] = {
            'latent_channels': latent_channels, 'mask_ratio': mask_ratio, 'mask_type': mask_type,
            'encoders': encoders, 'feature_scale': feature_scale, 'num_layers': num_layers, 'kernel_size': kernel_size,
            'momentum': momentum}
        self.block_mixer = BlockPriorMixer(route_probability, remix)
        self.block_every = self.due_every = block_every
        self.mixers = nn.ModuleList()
        self.weights = {name: loss_weight * weight for name, weight in (
            ('l_logits', kd_weight), ('l_feat', feat_weight), ('l_ae', ae_weight), ('l_block', block_weight))}
        self.reenters_network = bool(self.weights['l_block'])
        self.without_reentry = {'block_weight': 0} if kd_weight or feat_weight and mask_ratio else {}
        if not any(self.weights.values()):
            raise ValueError('all weights of MiPKDLoss are 0: nothing would be distilled')
        if not kd_weight and not block_weight and not (feat_weight and mask_ratio):
            lacking = 'mask_ratio' if feat_weight else 'feat_weight'  # l_ae trains the mixers alone
            raise ValueError(f'nothing of MiPKDLoss would reach the student: kd_weight, block_weight and {lacking} '
                             'are 0')

    def build(self, pairs: Sequence[TapPair]) -> None:
        """Build a feature prior mixer for each tap pair."""
        self.mixers = nn.ModuleList(
            build_network({'type': 'FeaturePriorMixer', 'student_channels': pair.student.channels,
                           'teacher_channels': pair.teacher.channels, **self.mixer_options}) for pair in pairs)

    def scaled_networks(self) -> Sequence[FeaturePriorMixer]:
        """The mixers."""
        return cast(Sequence[FeaturePriorMixer], self.mixers)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_feat``, ``l_ae``, ``l_logits`` and ``l_block``, those whose weights are above 0.

        Returns:
            The terms; ``l_block`` in each ``block_every``-th iteration only.
        """
        self.require_bound()
        mixers = self.scaled_networks()
        masks = self._draw_masks(step, mixers)
        route = self.block_mixer.draw_route(len(self.pairs), self._generator)
        latents: list[tuple[Tensor, Tensor]] = []
        terms: dict[str, list[Tensor]] = {'l_feat': [], 'l_ae': []}
        for mixer, (s, t), mask in zip(mixers, self.pairs, masks):
            teacher_feature = step.teacher.features[t]
            latents.append(mixer(step.student.features[s], teacher_feature))
            if self.weights['l_feat']:
                terms['l_feat'].append(mixer.teacher_error(mixer.mix(*latents[-1], mask), teacher_feature))
            if self.weights['l_ae']:
                terms['l_ae'].append(mixer.teacher_error(latents[-1][1], teacher_feature))
        if self.weights['l_logits']:
            terms['l_logits'] = [logits_distance(step)]
        if self.weights['l_block'] and step.iteration % self.block_every == 0:
            image = self.block_mixer(step, self.pairs, mixers, latents, masks, route)
            terms['l_block'] = [(image - step.teacher.output).abs().mean()]
        return {name: self.weights[name] * mean(values) for name, values in terms.items() if values}

    def _draw_masks(self, step: Step, mixers: Sequence[FeaturePriorMixer]) -> list[Tensor]:
        """One mask a tap, drawn on the features' device."""
        on_device = self._generator_on(step.lq.device)
        return [mixer.draw_mask(step.student.features[s], on_device) for mixer, (s, _) in zip(mixers, self.pairs)]
