"""Block prior mixer of MiPKD (arXiv 2404.02573, ICLR 2025): a random chain of blocks. It has no weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.feature_mixer_arch import FeaturePriorMixer
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import Share, checked
from mipkd_plugin.utils.registry import register


@register(ARCH_REGISTRY)
class BlockPriorMixer(nn.Module):
    """Sends a mixed feature through a random chain of the student's and the teacher's blocks to an image.

    R_k ∈ {0, 1}, k = 1..K, is drawn each iteration. From z¹ on, D^k(zᵏ) runs through the blocks (tap k, tap k+1] of the
    student (R_k = 1) or of the teacher (R_k = 0); what comes out takes the place of that network's feature at tap
    k + 1, where it is mixed with the other network's own feature, and so on; R_K chooses whose tail makes the
    image O. One chain an iteration, as in the paper. No parameters of its own.

    Args:
        route_probability: P(R_k = 1), in [0, 1] (our choice: 0.5).
        remix: Whether the chain's feature is mixed with the other network's at the next tap (our choice) or only
            encoded.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, route_probability: Share = 0.5, remix: bool = True) -> None:
        super().__init__()
        self.route_probability = route_probability
        self.remix = remix

    def draw_route(self, num_taps: int, generator: torch.Generator) -> list[bool]:
        """Draw R_1..R_K from a generator on the CPU: True for the student's blocks, False for the teacher's."""
        return (torch.rand(num_taps, generator=generator) < self.route_probability).tolist()

    def forward(self, step: Step, pairs: Sequence[tuple[str, str]], mixers: Sequence[FeaturePriorMixer],
                latents: Sequence[tuple[Tensor, Tensor]], masks: Sequence[Tensor], route: Sequence[bool]) -> Tensor:
        """Run the chain.

        Args:
            step: The iteration.
            pairs: K pairs (student block, teacher block), shallow to deep.
            mixers: K feature prior mixers.
            latents: K pairs E_S(F_S), E_T(F_T), both (N, Z, H, W).
            masks: K masks I^k. Feature loss and chain use the same mask at a tap (our choice).
            route: R_1..R_K.

        Returns:
            The image O (N, C, sH, sW).

        Raises:
            ValueError: There are no taps.
        """
        latent = mixers[0].mix(*latents[0], masks[0])
        last = len(pairs) - 1
        for k, through_student in enumerate(route):
            net = step.nets.student if through_student else step.nets.teacher
            own = [pair[0] if through_student else pair[1] for pair in pairs]
            feature = mixers[k].decode(latent, for_student=through_student)
            if k == last:
                return net.finish(step.lq, own[k], feature)
            feature = net.segment(feature, own[k], own[k + 1], step.lq)
            latent = mixers[k + 1].encode(feature, of_student=through_student)
            if self.remix:
                of_student, of_teacher = latents[k + 1]
                both = (latent, of_teacher) if through_student else (of_student, latent)
                latent = mixers[k + 1].mix(*both, masks[k + 1])
        raise ValueError('the block prior mixer needs at least one tap, got none')
