"""What is said about networks and taps that can be used, but are perhaps not what is wanted."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mipkd_plugin.networks.chains import Chain
from mipkd_plugin.networks.conduct import Conduct, Training
from mipkd_plugin.networks.modes import random_modules
from mipkd_plugin.networks.trunk import trunk_of


class Trunks:
    """The trunks of the networks, each found once for all losses."""

    def __init__(self) -> None:
        self._found: dict[nn.Module, Chain] = {}

    def __call__(self, net: nn.Module, lq: Tensor) -> Chain:
        """The trunk of a network in a run on images (N, C, H, W)."""
        if net not in self._found:
            self._found[net] = trunk_of(net, lq)
        return self._found[net]

    def doubts(self, role: str, net: nn.Module, number: int) -> list[str]:
        """Why ``number`` taps in a trunk that was found may not be what is wanted."""
        chain = self._found.get(net)
        if chain is None or not chain.doubt:
            return []
        return [f'the trunk {chain.name!r} of the {role} {type(net).__name__} is in doubt: {chain.doubt}; taps: '
                f'{number} took {", ".join(chain.spaced(number))}. If these are not its blocks, give pairs, taps: '
                '[[student module, teacher module], …]; mipkd taps -opt FILE.yml lists the modules']


def random_note(role: str, net: nn.Module, conduct: Conduct) -> list[str]:
    """Say that a network is random.

    Never an error: features may re-enter it where the error is within what its own runs differ, and all other losses
    only compare with a noisy network.

    Args:
        role: ``student`` or ``teacher``.
        net: The network.
        conduct: What its runs have in common.

    Returns:
        A sentence, or nothing.
    """
    if not conduct.tested:
        return []
    return [f'the {role} {type(net).__name__} is random: two runs over the same images differ by up to '
            f'{conduct.tested:.1e} of the largest value in eval mode, so losses compare noisy images and features. '
            'If that is not wanted, let its forward() draw random numbers in training mode alone, as '
            'F.dropout(x, p, self.training) does']


def mixing(role: str, net: nn.Module, conduct: Conduct) -> str:
    """Say that the images of a batch mix; '' if they do not."""
    if not conduct.mixed:
        return ''
    return (f'the {role} {type(net).__name__} depends on the batch: its result for an image changes by up to '
            f'{conduct.mixed:.1e} of the largest value with the other images beside it, also in eval mode')


MIXING_REMEDY = ('normalize each image by itself, as nn.GroupNorm and nn.LayerNorm do, or with statistics that are '
                 'kept from training, as nn.BatchNorm2d does')


def dropout_note(net: nn.Module, training: Training, conduct: Conduct) -> list[str]:
    """Say that a student into which features re-enter draws random numbers in training.

    No error: such losses are published with drop-path in the student. What re-enters meets other random numbers than
    the student's own pass, so that the block-wise term of equal features is not 0.

    Args:
        net: The student.
        training: What its run in training mode has shown.
        conduct: What its runs have in common with dropout at rest.

    Returns:
        A sentence, or nothing.
    """
    if not training.draws or conduct.tested:
        return []
    kinds = sorted({type(module).__name__ for module in random_modules(net) if _draws(module)})
    return [f'the student {type(net).__name__} draws random numbers in training'
            f'{" (" + ", ".join(kinds) + ")" if kinds else ""}: features that re-enter it meet other ones than its own '
            'pass. That is common, and adds noise to the loss; to have none, set the dropout and drop-path of the '
            'student to 0']


def _draws(module: nn.Module) -> bool:
    return not isinstance(module, _NormBase) and bool(getattr(module, 'p', getattr(module, 'drop_prob', True)))


def unused_notes(net: nn.Module, training: Training, is_reentered: Callable[[str], bool]) -> list[str]:
    """Say that the student's image does not depend on a feature; where features re-enter that is an error anyway."""
    return [f'tap {path!r} of the student {type(net).__name__}: the image does not depend on its feature, so the loss '
            'trains what comes before it, and nothing behind it; mipkd taps -opt FILE.yml lists other modules'
            for path in training.unused if not is_reentered(path)]
