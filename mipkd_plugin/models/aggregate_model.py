"""Stage 1 of MTKD (arXiv 2404.09571): train the aggregator of the images of several frozen teachers."""

from __future__ import annotations

from typing import Any

from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from mipkd_plugin import config
from mipkd_plugin.archs.knowledge_aggregator_arch import AggregatedTeachers, images_of
from mipkd_plugin.checkpoints.aggregate_file import KEY, Aggregate
from mipkd_plugin.checkpoints.files import label_of, student_path
from mipkd_plugin.checkpoints.writing import save_file
from mipkd_plugin.models.student import StudentMixin
from mipkd_plugin.networks.padding import needed_multiple
from mipkd_plugin.utils.registry import register


@register(MODEL_REGISTRY)
class AggregateModel(StudentMixin, SRModel):  # type: ignore[misc]  # BasicSR ships no types
    """SRModel whose ``network_g`` gets the images of the teachers in place of the LR image.

    It reads ``teachers``. They are in eval mode and run without gradient, in training and in ``test()``. Each
    ``net_g_<iter>.pth`` says whose images it takes, so that the file can be used as a teacher:
    ``teacher: {aggregate: FILE}``.

    Raises:
        OptionError: The options of the teachers have problems; the message lists all of them.
    """

    teachers: nn.ModuleList | tuple[()] = ()
    aggregate: Aggregate | None = None

    def __init__(self, opt: dict[str, Any]) -> None:
        self._needed: dict[int, int] = {}
        nets, self.aggregate = config.load_members(opt)
        super().__init__(opt)
        self.teachers = nn.ModuleList(nets).eval().requires_grad_(False).to(self.device)
        get_root_logger().info('Teachers, frozen:\n' + '\n'.join(
            f'\t{member.name}: {member.network["type"]}, {sum(p.numel() for p in net.parameters()):,d} parameters, '
            f'{member.weights}' for member, net in zip(self.aggregate.teachers, nets)))

    def optimize_parameters(self, current_iter: int) -> None:
        """Run one iteration as SRModel does, on the images of the teachers."""
        lq, self.lq = self.lq, self.network_input(self.lq)
        try:
            super().optimize_parameters(current_iter)
        finally:
            self.lq = lq

    def save_network(self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int,
                     param_key: str | list[str] = 'params') -> None:
        """Save ``net_g_<iter>.pth`` as BasicSR does, with the text about the teachers in it."""
        if self.opt.get('rank', 0) != 0 or self.aggregate is None:
            return
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content: dict[str, Any] = {key: {name: tensor.cpu() for name, tensor in
                                         self.get_bare_model(one).state_dict().items()} for key, one in zip(keys, nets)}
        save_file(student_path(self.opt['path']['models'], label_of(current_iter)),
                  {**content, KEY: self.aggregate.as_text()})

    def network_input(self, lq: Tensor) -> Tensor:
        """The images of the teachers (N, 3·teachers, sH, sW)."""
        return images_of(self.teachers, lq) if len(self.teachers) else lq

    def _multiple(self, channels: int, scale: int) -> int:
        if not len(self.teachers):
            return super()._multiple(channels, scale)
        if channels not in self._needed:
            whole = AggregatedTeachers.of(self.get_bare_model(self.net_g), self.teachers)
            self._needed[channels] = needed_multiple(whole, channels, scale)
        return self._needed[channels]
