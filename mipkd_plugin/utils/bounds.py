"""Bounds while something is built from options: a network that is too large is refused before it is whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, is_memory_error, reason
from mipkd_plugin.utils.words import gigabytes

if TYPE_CHECKING:
    from torch import nn

MOST_TENSORS = 10_000
"""Tensors of weights of one network; a large one, HAT-L, has about 3,000."""
MOST_OF_A_LOSS = 10**9
"""Bytes of weights of one distillation loss: 250 million numbers, many times those of any network that it may teach."""
_IN_TRAINING = 4  # times the weights: their gradients and two moments of Adam too
_LARGE = 1000  # from this number on, an option is first tried without memory


class TooLargeError(MipkdError):
    """What an option file describes is too large; the message goes on after its name."""


@contextmanager
def bounded(is_loss: bool = False) -> Iterator[None]:
    """Inside the block, a network stops growing where it would not fit into the memory that is free.

    Args:
        is_loss: Whether the networks are those of a loss, which are trained; then a bound of their own holds too.

    Raises:
        TooLargeError: A network has too many tensors, or they take too many bytes.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    free, found = psutil.virtual_memory().available, {'tensors': 0, 'bytes': 0}

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        if parameter is None:
            return
        found['tensors'] += 1
        found['bytes'] += parameter.numel() * parameter.element_size()
        if found['tensors'] > MOST_TENSORS:
            raise TooLargeError(f'has more than {MOST_TENSORS:,d} tensors of weights')
        if found['bytes'] > free:
            raise TooLargeError(f'needs {gigabytes(found["bytes"])} of memory or more for its weights, and '
                                f'{gigabytes(free)} are free')
        if is_loss and found['bytes'] > min(MOST_OF_A_LOSS, free // _IN_TRAINING):
            raise TooLargeError(
                f'would have {gigabytes(found["bytes"])} of weights or more, and their training takes '
                f'{_IN_TRAINING} times as much memory ({gigabytes(free)} are free); no loss may have more than '
                f'{gigabytes(MOST_OF_A_LOSS)}')

    handle = register_module_parameter_registration_hook(count)
    try:
        with _memory_errors_told(), _memory_limit(free):
            yield
    finally:
        handle.remove()


@contextmanager
def _memory_errors_told() -> Iterator[None]:
    try:
        yield
    except FOREIGN_ERRORS as error:
        if is_memory_error(error):
            raise TooLargeError(reason(error)) from error
        raise


@contextmanager
def _memory_limit(free: int) -> Iterator[None]:
    """On Linux, let the system refuse what does not fit into memory, instead of ending the process later."""
    if not sys.platform.startswith('linux'):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + free
    if soft == resource.RLIM_INFINITY or wanted < soft:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def build_bounded(make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Build something from options, and stop where it becomes too large.

    Args:
        make: Class or function.
        arguments: Its arguments.

    Returns:
        What was built.

    Raises:
        TooLargeError: It would not fit into memory, or would take very long to build.
    """
    import torch

    if _has_large_number(arguments):
        try:
            with bounded(), torch.device('meta'):
                make(**arguments)
        except TooLargeError:
            raise
        except FOREIGN_ERRORS:
            pass  # some constructors need values; the next attempt says what is wrong with the options
    with bounded():
        return make(**arguments)


def _has_large_number(arguments: Any) -> bool:
    """Whether options hold a number or a list that could make a network huge."""
    if isinstance(arguments, (Mapping, list)):
        children = list(arguments.values() if isinstance(arguments, Mapping) else arguments)
        return len(children) >= _LARGE or any(map(_has_large_number, children))
    return isinstance(arguments, (int, float)) and abs(arguments) >= _LARGE
