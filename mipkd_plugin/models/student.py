"""BasicSR's SRModel for any student: ``test()`` pads images to the sizes that the network takes."""

from __future__ import annotations

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.models.host import HostModel
from mipkd_plugin.networks.padding import needed_multiple, padded
from mipkd_plugin.utils.registry import register


class StudentMixin(HostModel):
    """Let a BasicSR model class validate and test networks that take only some image sizes.

    A model class with a ``test()`` of its own, such as SwinIRModel or HATModel, keeps it.
    """

    def test(self) -> None:
        """Run the network (EMA, if there is one) on ``self.lq``, padded by reflection where it needs that.

        The multiple that it needs is found once a run, on small random images. Networks that take any size run on the
        image itself.
        """
        if getattr(super().test, '__func__', None) is not SRModel.test:  # that class has its own way
            super().test()
            return
        image, scale = self.lq, int(self.opt.get('scale', 1))
        height, width = image.shape[2:]
        self.lq = padded(image, self._multiple(image.shape[1], scale))
        try:
            super().test()
        finally:
            is_padded, self.lq = self.lq is not image, image
        if is_padded:
            self.output = self.output[:, :, :height * scale, :width * scale]

    def _multiple(self, channels: int, scale: int) -> int:
        """What the sides of images must be multiples of."""
        found: dict[int, int] = vars(self).setdefault('_multiples', {})
        if channels not in found:
            net = getattr(self, 'net_g_ema', None)
            found[channels] = needed_multiple(self.get_bare_model(self.net_g) if net is None else net, channels, scale)
        return found[channels]


@register(MODEL_REGISTRY)
class AnySRModel(StudentMixin, SRModel):  # type: ignore[misc]  # BasicSR ships no types
    """SRModel for networks that take only some image sizes: ``test()`` pads. The control of a comparison uses it."""
