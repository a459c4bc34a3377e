"""What the mixin needs of the BasicSR model class beside it; for type checkers alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    class HostModel:
        """The attributes and methods that the mixin needs from the model class beside it, such as SRModel."""

        opt: dict[str, Any]
        device: torch.device
        net_g: nn.Module
        net_g_ema: nn.Module
        lq: Tensor
        gt: Tensor
        output: Tensor
        optimizer_g: torch.optim.Optimizer
        optimizers: list[torch.optim.Optimizer]
        cri_pix: nn.Module | None
        cri_perceptual: nn.Module | None
        ema_decay: float
        log_dict: OrderedDict[str, float]

        def model_to_device(self, net: nn.Module) -> nn.Module:
            """Put a network on the device, in DDP where there are several processes."""
            return net

        def init_training_settings(self) -> None:
            """Make EMA, losses, optimizers and schedulers."""

        def setup_optimizers(self) -> None:
            """Make ``optimizer_g``."""

        def save(self, epoch: int, current_iter: int) -> None:
            """Save the networks and the training state."""

        def resume_training(self, resume_state: dict[str, Any]) -> None:
            """Restore optimizers and schedulers."""

        def feed_data(self, data: dict[str, Any]) -> None:
            """Take a batch."""

        def optimize_parameters(self, current_iter: int) -> None:
            """Run one training step."""

        def test(self) -> None:
            """Run the network on ``lq``, without gradient, into ``output``."""

        def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
            """Validate on one data set, in one process."""

        def model_ema(self, decay: float) -> None:
            """Update the moving average of ``net_g``."""

        get_bare_model: Callable[[nn.Module], nn.Module]
        reduce_loss_dict: Callable[[OrderedDict[str, Tensor]], OrderedDict[str, float]]
else:
    HostModel = object
