"""No step that is not finite is applied, and no weights that are not finite are saved: for any model of BasicSR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from mipkd_plugin.models.ranks import over_all_ranks, ranks
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.finite import NotFiniteError, bad_weights, gradients_are_bad, is_finite, scalars_are_bad

MOST_IN_A_ROW = 10
"""A run stops after so many steps in a row that are not finite."""


class FiniteSteps:
    """Watches the steps of one model.

    Args:
        model: Any model of BasicSR: its ``optimizers``, its networks ``net_*`` and its losses ``cri_*``.
        stop_wish: Function that returns the number of the signal that asks for a stop, or 0. Ranks share it with each
            step, so that all of them stop after the same iteration.
    """

    def __init__(self, model: Any, stop_wish: Callable[[], int]) -> None:
        self.model = model
        self.in_a_row = 0
        self.agreed_wish = 0
        self._stop_wish = stop_wish
        self._is_bad = False
        self._is_open = False
        self._values: list[Tensor] = []
        for optimizer in model.optimizers:
            optimizer.register_step_pre_hook(self._before_step)
        for name, loss in vars(model).items():
            if name.startswith('cri_') and isinstance(loss, nn.Module):
                loss.register_forward_hook(lambda module, inputs, output: self.see(_tensors(output)))
        if hasattr(model, 'see_losses'):
            model.see_losses = self.see

    def see(self, values: Iterable[Tensor]) -> None:
        """Take values of the losses of this step."""
        if self._is_open:
            self._values += [value.detach() for value in values if value.is_floating_point()]

    def begin(self) -> None:
        """An iteration begins."""
        self._is_bad, self._is_open, self.agreed_wish = False, True, 0
        self._values.clear()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Leave the optimizer without gradients if one of them, or a loss, is not finite: then nothing moves."""
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        found: list[Tensor | float] = [scalars_are_bad(self._values)] if self._values else []
        self._values.clear()
        if parameters:
            found.append(gradients_are_bad([p.grad for p in parameters if p.grad is not None]))
        bad, wish = self._agreed(found)
        self.agreed_wish = max(self.agreed_wish, int(wish))
        if bad:
            self._is_bad = True
            for parameter in parameters:
                parameter.grad = None

    def _agreed(self, found: list[Tensor | float]) -> tuple[float, float]:
        """Whether something bad was found, on any rank, and the wish to stop; waits for the device once."""
        device, wish = torch.device(self.model.device), float(self._stop_wish())
        if device.type == 'cpu':
            bad = float(any(map(bool, found)))
            return tuple(over_all_ranks(torch.tensor([bad, wish])).tolist()) if ranks() > 1 else (bad, wish)
        flags = torch.stack([torch.as_tensor(flag, dtype=torch.float32, device=device) for flag in (*found, 0.0)]).max()
        bad, wish = over_all_ranks(torch.stack([flags, torch.full_like(flags, wish)])).tolist()
        return bad, wish

    def end(self, iteration: int) -> None:
        """An iteration is done.

        Raises:
            NotFiniteError: The last steps were not finite, or the weights are not.
        """
        self._is_open = False
        if not self._is_bad:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        log = ', '.join(f'{name} = {value:.4g}' for name, value in getattr(self.model, 'log_dict', {}).items())
        if self.in_a_row >= MOST_IN_A_ROW:
            raise NotFiniteError(_how_to_go_on(
                self.model, f'iteration {iteration:,d}: the loss or its gradient is not finite, {MOST_IN_A_ROW} steps '
                f'in a row ({log}). None of these steps was applied'))
        self.require_finite_weights(iteration)
        get_root_logger().warning(f'Iteration {iteration:,d}: the loss or its gradient is not finite ({log}). This '
                                  f'step is not applied; after {MOST_IN_A_ROW} in a row the training stops.')

    def require_finite_weights(self, iteration: int) -> None:
        """Check all weights that a checkpoint holds.

        Raises:
            NotFiniteError: Some are not finite.
        """
        bad = {name: found for name, net in _saved_networks(self.model).items() for found in [bad_weights(net)]
               if found}
        if not over_all_ranks(torch.tensor([float(bool(bad))], device=self.model.device)).item():
            return
        name, found = next(iter(bad.items()), ('net_g', ['?']))
        raise NotFiniteError(_how_to_go_on(
            self.model, f'iteration {iteration:,d}: the weights of {name} are not finite: {len(found)} tensors, the '
            f'first is {found[0]}. They are not saved'))

    @property
    def is_in_doubt(self) -> bool:
        """Whether more than a single step was not finite: a run that resumed from here would forget it."""
        return self.in_a_row > 1

    def gives_images(self) -> bool:
        """Whether the weights give finite images; looked at only after a step that was not finite."""
        if not self.in_a_row or not isinstance(getattr(self.model, 'lq', None), Tensor):
            return True
        net = self.model.get_bare_model(self.model.net_g)
        was_training = net.training
        net.eval()
        output: Any = None
        try:
            with torch.no_grad():
                images = torch.nan_to_num(self.model.lq, 0.0, 0.0, 0.0).clamp(0, 1)
                output = net(getattr(self.model, 'network_input', lambda lq: lq)(images))
        except FOREIGN_ERRORS:  # this network takes something else
            pass
        finally:
            net.train(was_training)
        bad = float(not all(is_finite(found) for found in _tensors(output)))
        return not over_all_ranks(torch.tensor([bad], device=self.model.device)).item()

    def refuse_end(self, iteration: int, is_saved: bool) -> None:
        """The training is over, and its last steps were not applied.

        Raises:
            NotFiniteError: Always.
        """
        what = ('net_g_latest.pth holds the weights from before them' if is_saved else
                'The network gives images that are not finite, and its weights are not saved')
        raise NotFiniteError(_how_to_go_on(
            self.model, f'iteration {iteration:,d}: the training has ended, but its last {self.in_a_row} steps were '
            f'not finite and were not applied. {what}'))

    def refuse_image(self, where: str) -> None:
        """Look at the image that the model has just made.

        Args:
            where: Which one, for the message.

        Raises:
            NotFiniteError: It is not finite.
        """
        output = getattr(self.model, 'output', None)
        if not all(is_finite(found) for found in _tensors(output)):
            raise NotFiniteError(_how_to_go_on(self.model, f'{where}: the network gives an image that is not finite'))


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in what a module has returned."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [found for value in values for found in _tensors(value)] if isinstance(values, (list, tuple)) else []


def _saved_networks(model: Any) -> dict[str, nn.Module]:
    """What a checkpoint holds: the networks of BasicSR, and the losses that train weights of their own."""
    return {name: net for name, net in vars(model).items()
            if isinstance(net, nn.Module) and (name.startswith('net_') or name == 'losses')}


def _how_to_go_on(model: Any, what: str) -> str:
    """A message: what has happened, which checkpoints there are, and what to do."""
    if not model.opt['is_train']:
        weights = model.opt['path'].get('pretrain_network_g')
        return (f'{what}.\n -> The weights are those of {weights} (path.pretrain_network_g): they come from a training '
                'that has diverged; give another file')
    folder = Path(model.opt['path']['models'])
    labels = sorted(int(path.stem.removeprefix('net_g_')) for path in folder.glob('net_g_*.pth')
                    if path.stem.removeprefix('net_g_').isdigit())
    rates = {name: max(group['initial_lr'] if 'initial_lr' in group else group['lr']
                       for group in optimizer.param_groups)
             for name in ('optimizer_g', 'optimizer_d')
             for optimizer in [getattr(model, name, None)] if optimizer is not None}
    lower = 'a lower ' + ' or '.join(f'train.{name.replace("optimizer", "optim")}.lr (now {rate:g})'
                                     for name, rate in rates.items()) if rates else 'a lower learning rate'
    if not labels:
        return (f'{what}.\n -> There is no checkpoint of this run yet. Start again with {lower}, and see that no image '
                'of the training set holds NaN')
    older = labels[-2] if len(labels) > 1 else labels[-1]
    state = Path(model.opt['path']['training_states']) / f'{older}.state'
    return (f'{what}.\n -> The checkpoints up to iteration {labels[-1]:,d} are as they were. Go on from one before it '
            f'went wrong, with path.resume_state: {state}, train.resume_hyperparameters: new and {lower}; or start a '
            f'new run, under another name, with path.pretrain_network_g: {folder / f"net_g_{older}.pth"}')
