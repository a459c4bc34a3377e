"""Networks that return more than an image: say what they return, and choose the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.utils.errors import MipkdError

_MOST = 8
OutputKey = int | str | None


class OutputError(MipkdError):
    """A network returns no image, or nothing at the place that is asked for.

    Attributes:
        returned: What it has returned.
    """

    def __init__(self, text: str, returned: Any) -> None:
        self.returned = returned
        super().__init__(text)


def described(output: Any) -> str:
    """What a network returns, in words: kind, and the keys or the length, with shapes."""
    if isinstance(output, Tensor):
        return f'a tensor of {_shape(output)}'
    if isinstance(output, Mapping):
        return f'a dict of {_listed(output.items())}' if output else 'an empty dict'
    if isinstance(output, (list, tuple)):
        return f'a {type(output).__name__} of {len(output)}: {_listed(enumerate(output))}'
    return 'nothing (None)' if output is None else f'an object of {type(output).__name__}'


def entries(output: Any) -> list[tuple[int | str, Any]]:
    """(Key or number, entry) of each entry of a list, tuple or dict; empty for anything else."""
    if isinstance(output, Mapping):
        return [(key, value) for key, value in output.items() if isinstance(key, (int, str))]
    return list(enumerate(output)) if isinstance(output, (list, tuple)) else []


def images_in(output: Any, shape: tuple[int, ...]) -> list[int | str]:
    """Keys or numbers of the entries that are batches of images of this shape (C, H, W)."""
    return [key for key, value in entries(output)
            if isinstance(value, Tensor) and value.dim() == 4 and tuple(value.shape[1:]) == shape]


def select_output(net: nn.Module, key: OutputKey) -> None:
    """Let a network return one entry of its output; done twice, the second key counts.

    A forward hook, so that the state dict stays as it is, and wrappers such as DistributedDataParallel see it too. A
    network that returns a tensor, as many do in eval mode alone, returns it.

    Args:
        net: The network, unwrapped.
        key: Number of an entry of a list or tuple, or key of a dict; None refuses everything but a tensor.
    """
    for number, hook in list(net._forward_hooks.items()):
        if isinstance(hook, _Selection):
            del net._forward_hooks[number]
    net.register_forward_hook(_Selection(key))


def selects(net: nn.Module) -> bool | None:
    """Whether a network has returned more than an image since an output was chosen; None if none was."""
    return next((hook.is_used for hook in net._forward_hooks.values() if isinstance(hook, _Selection)), None)


class _Selection:
    """The hook: takes the output of a network, and returns the entry."""

    def __init__(self, key: OutputKey) -> None:
        self.key = key
        self.is_used = False

    def __call__(self, net: nn.Module, args: Any, output: Any) -> Tensor:
        if isinstance(output, Tensor):
            return output
        name, self.is_used = type(net).__name__, True
        if self.key is not None:
            known = output if isinstance(output, Mapping) else range(-len(output), len(output)) if isinstance(
                output, (list, tuple)) else ()
            if self.key not in known:
                raise OutputError(f'{name} has no output {self.key!r}: it returns {described(output)}', output)
            found = output[self.key]
            if not isinstance(found, Tensor):
                raise OutputError(f'output {self.key!r} of {name} is {described(found)}, and no image; it returns '
                                  f'{described(output)}', output)
            return found
        raise OutputError(f'{name} returns {described(output)}, and not an image alone', output)


def _shape(output: Tensor) -> str:
    return '×'.join(map(str, output.shape)) or 'one number'


def _listed(pairs: Any) -> str:
    pairs = list(pairs)
    texts = [f'{key!r}: {_shape(value) if isinstance(value, Tensor) else type(value).__name__}'
             for key, value in pairs[:_MOST]]
    return ', '.join(texts) + (f' and {len(pairs) - _MOST} more' if len(pairs) > _MOST else '')
