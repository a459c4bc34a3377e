"""BasicSR's SRModel for any student: padding to the sizes that it takes, and the image among its outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.models.host import HostModel
from mipkd_plugin.models.pictures import ValidationPictures
from mipkd_plugin.networks.outputs import select_output
from mipkd_plugin.networks.padding import needed_multiple, padded
from mipkd_plugin.utils.registry import register


class StudentMixin(HostModel):
    """Let a BasicSR model class use networks that take only some image sizes, or return more than an image.

    It reads ``output``: the number or key of the image in what ``network_g`` returns; and ``logger.val_pictures``. A
    model class with a ``test()`` of its own, such as SwinIRModel or HATModel, keeps it.
    """

    pictures: ValidationPictures | None = None

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Wrap a network as BasicSR does; it returns the output that the option ``output`` chooses."""
        if net is self.net_g:
            self._choose_output(net)
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """Let BasicSR set up the training; EMA returns the same output as the network."""
        super().init_training_settings()
        if hasattr(self, 'net_g_ema'):
            self._choose_output(self.net_g_ema)

    def test(self) -> None:
        """Run the network (EMA, if there is one) on ``self.lq``, padded by reflection where it needs that.

        The multiple that it needs is found once a run, on small random images. Networks that take any size run on the
        image itself.
        """
        self._run_test()
        if self.pictures is not None:
            self.pictures.add(self.lq, self.output, getattr(self, 'gt', None))

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Validate as BasicSR does; draw the first images, if ``logger.val_pictures`` asks for it.

        The pictures go to the folder ``pictures`` of the run, and to TensorBoard.
        """
        count = int((self.opt.get('logger') or {}).get('val_pictures') or 0)
        if not count or not self.opt['is_train']:
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
            return
        if self.pictures is None:
            self.pictures = ValidationPictures(count, int(self.opt.get('scale', 1)), self._teachers_for_pictures(),
                                               int(self.opt['train']['total_iter']))
        with self.pictures.of(dataloader.dataset):
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
            self.pictures.write(self._folder_of_pictures(), tb_logger, current_iter)

    def _folder_of_pictures(self) -> Path | None:
        root = (self.opt.get('path') or {}).get('experiments_root')
        return None if root is None else Path(root) / 'pictures'

    def _teachers_for_pictures(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What runs each teacher on one image, by its label; a model without a teacher has none."""
        return {}

    def _run_test(self) -> None:
        """``test()`` alone."""
        if getattr(super().test, '__func__', None) is not SRModel.test:  # that class has its own way
            super().test()
            return
        image, scale = self.lq, int(self.opt.get('scale', 1))
        height, width = image.shape[2:]
        self.lq = self.network_input(padded(image, self._multiple(image.shape[1], scale)))
        try:
            super().test()
        finally:
            is_padded, self.lq = self.lq is not image, image
        if is_padded:
            self.output = self.output[:, :, :height * scale, :width * scale]

    def network_input(self, lq: Tensor) -> Tensor:
        """What the network gets for LR images."""
        return lq

    def _choose_output(self, net: nn.Module) -> None:
        if self.opt.get('output') is not None:
            select_output(net, self.opt['output'])

    def _multiple(self, channels: int, scale: int) -> int:
        """What the sides of images must be multiples of."""
        found: dict[int, int] = vars(self).setdefault('_multiples', {})
        if channels not in found:
            net = getattr(self, 'net_g_ema', None)
            found[channels] = needed_multiple(self.get_bare_model(self.net_g) if net is None else net, channels, scale)
        return found[channels]


@register(MODEL_REGISTRY)
class AnySRModel(StudentMixin, SRModel):  # type: ignore[misc]  # BasicSR ships no types
    """SRModel for any network: ``test()`` pads, and ``output`` chooses the image. A control of comparisons."""
