"""Networks that spandrel knows (https://github.com/chaiNNer-org/spandrel, the extra ``[teacher]``)."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.recognition.layout import Found, UnfitError
from mipkd_plugin.recognition.recognized import build, network_class
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason

_PURPOSES = {'SR', 'Restoration'}
_NOTE = 'arguments that a weights file does not show are those that spandrel assumes'


def is_installed() -> bool:
    """Whether spandrel is installed."""
    return importlib.util.find_spec('spandrel') is not None


def read(state: Mapping[str, Tensor]) -> tuple[Found, nn.Module]:
    """Recognize a network through spandrel.

    Args:
        state: Tensor by name.

    Returns:
        What was found, and the network with its weights.

    Raises:
        UnfitError: spandrel knows no such network, or our option files cannot describe it; the text is the rest of a
            sentence that starts with the name of the file.
    """
    import spandrel

    try:
        descriptor = spandrel.MAIN_REGISTRY.load(dict(state))
    except spandrel.UnsupportedModelError as error:
        raise UnfitError('') from error
    except FOREIGN_ERRORS as error:
        raise UnfitError(f'looks like a network that spandrel knows, but it cannot read it: {reason(error)}') from error
    name = descriptor.architecture.name
    if descriptor.purpose not in _PURPOSES or not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise UnfitError(f'holds {name}, which is for other work ({descriptor.purpose}), not for super-resolution')
    model = descriptor.model.float().eval()
    network = {'type': _registered_name(model, name), **_plain(_hyperparameters(model, name))}
    own = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    try:
        net = build(network)
        net.load_state_dict(own)
    except FOREIGN_ERRORS as error:
        raise UnfitError(f'holds {name}, as spandrel says, but that cannot be built again: {reason(error)}') from error
    return Found(network, descriptor.scale, own, f'spandrel ({name})', notes=(_NOTE, )), net


def _registered_name(model: nn.Module, name: str) -> str:
    """The name under which an option file finds the class of a model."""
    module = sys.modules[type(model).__module__.partition('.__arch')[0]]
    for exported in getattr(module, '__all__', ()):
        if getattr(module, exported) is type(model):
            try:
                found = network_class(exported)
            except LookupError:
                continue
            if found is type(model):
                return str(exported)
            raise UnfitError(f'holds {name} as spandrel has it, and BasicSR has another network of the name '
                             f'{exported}, which these weights do not fit')
    raise UnfitError(f'holds {name}, and spandrel has no class of it that an option file can name')


def _hyperparameters(model: nn.Module, name: str) -> dict[str, Any]:
    found: Any = getattr(model, 'hyperparameters', None)
    if not isinstance(found, dict):
        raise UnfitError(f'holds {name}, and spandrel does not say with which arguments')
    defaults = {key: parameter.default for key, parameter in inspect.signature(type(model)).parameters.items()}
    return {key: value for key, value in found.items() if _is_plain(value) or value is not defaults.get(key)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, Mapping))


def _plain(value: Any) -> Any:
    """The same in types that an option file has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    for kind in (bool, int, float, str):  # not the numbers of NumPy, which are some of these too
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise UnfitError(f'holds a network with the argument {value!r}, which cannot be written into an option file')
