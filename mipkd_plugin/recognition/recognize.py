"""Recognize the network of a weights file: by rules of our own first, then through spandrel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.archs.supply import EXTRA
from mipkd_plugin.recognition import through_spandrel
from mipkd_plugin.recognition.errors import RecognitionError
from mipkd_plugin.recognition.families import FAMILIES
from mipkd_plugin.recognition.guessing import OWN, seems
from mipkd_plugin.recognition.layout import Found, Layout, UnfitError
from mipkd_plugin.recognition.measuring import choose
from mipkd_plugin.recognition.reading import AVERAGES, cleaned, not_finite, read, select, variants
from mipkd_plugin.recognition.recognized import Recognized, build
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.weight_files import unusable
from mipkd_plugin.utils.words import some

SEARCH = '?'
"""Look for the usual keys of a file, the moving average before the plain weights."""


def recognize(path: str | Path, param_key: str | None = SEARCH) -> Recognized:
    """Recognize the network of a weights file from its names and shapes.

    Args:
        path: A file of ``torch.save`` or safetensors.
        param_key: Key of the file under which the weights are; None if the file itself is the state dict. By default
            the usual keys are looked for, ``params_ema`` before ``params``.

    Returns:
        The network, whose state dict is its own to the last name.

    Raises:
        RecognitionError: The file cannot be read, or no network is recognized in it.
    """
    path = Path(path).expanduser()
    content = read(path)
    chosen, key = select(path, content, None if param_key == SEARCH else param_key, given=param_key != SEARCH)
    notes = []
    if param_key == SEARCH and key in AVERAGES and isinstance(content, Mapping) and 'params' in content:
        notes.append(f'the file has plain weights (params) too; the moving average ({key}) was taken')
    state = cleaned(path, chosen)
    bad = not_finite(state)
    if bad:
        raise RecognitionError(path, f'holds weights that are not finite: {len(bad)} of {len(state)} tensors have NaN '
                               f'or infinity, the first is {bad[0]}',
                               'the training that saved them has diverged, or the file is damaged: give another one')
    found, net = _search(path, state)
    values, measured = choose(found, net)
    complete = {name: found.state.get(name, tensor) for name, tensor in net.state_dict().items()}
    return Recognized(path, {**found.network, **values}, found.scale, key, complete, found.source,
                      (*notes, *found.notes, *measured))


def _search(path: Path, state: Mapping[str, Tensor]) -> tuple[Found, nn.Module]:
    """The network of a state dict with its weights: by the rules here, then by those of spandrel."""
    missed: list[tuple[str, str]] = []
    for variant in variants(state):
        found, net = _by_rules(variant, missed)
        if found is not None and net is not None:
            return found, net
    if through_spandrel.is_installed():
        for variant in variants(state):
            try:
                return through_spandrel.read(variant)
            except UnfitError as error:
                missed += [(str(error), OWN)] if str(error) else []
    told = [seems(variant) for variant in variants(state)]
    what, remedy = next((one for one in told if one[0].startswith('seems')), told[0])
    if missed:
        raise RecognitionError(path, *missed[0])
    if not through_spandrel.is_installed():
        remedy = f'many published networks are recognized with spandrel: {EXTRA}; {remedy}'
    raise RecognitionError(path, what, remedy)


def _by_rules(state: Mapping[str, Tensor], missed: list[tuple[str, str]]) -> tuple[Found | None, nn.Module | None]:
    """The first family that fits to the last tensor, and its network with the weights."""
    layout = Layout(state)
    for family in FAMILIES:
        if not all(name in layout for name in family.signature):
            continue
        try:
            found = family.read(layout)
        except (UnfitError, *FOREIGN_ERRORS) as error:  # a number too few in a shape, a division by none
            what = str(error) if isinstance(error, UnfitError) else 'its shapes do not belong together'
            missed.append((f'looks like {family.name}, but {what}', OWN))
            continue
        try:
            net = build({**found.network, **(found.choices[0] if found.choices else {})})
        except FOREIGN_ERRORS as error:
            missed.append((f'looks like {family.name}, but that cannot be built: {reason(error)}', OWN))
            continue
        problem = fit(net, found.state)
        if not problem:
            return found, net
        missed.append((f'looks like {family.name}, but {problem}', f'download it again; {OWN}'))
    return None, None


def fit(net: nn.Module, state: Mapping[str, Any]) -> str:
    """Load a state dict strictly; buffers that are not in it stay as the network has made them.

    Args:
        net: The network.
        state: Tensor by name.

    Returns:
        What does not fit, '' if all does.
    """
    own = net.state_dict()
    needed = {name for name, _ in net.named_parameters()}
    missing = [name for name in own if name not in state and name in needed]
    extra = [name for name in state if name not in own]
    reshaped = [name for name in state if name in own and own[name].shape != state[name].shape]
    for names, what in ((missing, 'it lacks'), (extra, 'it also has'), (reshaped, 'of another shape is')):
        if names:
            return f'{what} {some(names)}'
    spoiled = [f'{name} {kind}' for name in state if (kind := unusable(state[name], own[name]))]
    if spoiled:
        return f'its tensors cannot be used: {some(spoiled)}'
    net.load_state_dict({**own, **state})
    return ''
