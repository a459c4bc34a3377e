"""A student that starts as a slice of its teacher: fewer channels, fewer blocks, or both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from mipkd_plugin.networks.slice_channels import Piece, choose
from mipkd_plugin.networks.slice_rules import (
    ANEW,
    NAMES,
    SAME_SETTINGS,
    Axes,
    Family,
    Row,
    SliceError,
    axes_of,
    family_of,
)
from mipkd_plugin.utils.words import some


def sliced(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Cut the weights of a student out of its teacher's (our choice, throughout).

    - Width: of each group of channels those whose filters have the largest L1 norms, in their order. Channels are one
      group where they must stay together: all that is added up along the trunk is one, the filters between two
      convolutions of a block are another, and a sub-pixel convolution has r² filters for each of its channels. Of
      attention, heads are chosen first, then the channels in each head, those of query and key in common.
    - Depth: blocks evenly spaced from the first to the last, as :func:`spaced` says. Windows of Swin blocks are shifted
      in turn, so these are dropped in pairs.

    No value is changed. Sums over fewer channels come out smaller than the teacher's; training has to make up for it.

    Args:
        student: The student; it is left as it is.
        teacher: The teacher, of the same architecture of BasicSR.

    Returns:
        The state of the student: the teacher's values, and the student's own buffers. For a student of the teacher's
        size it is the teacher's state.

    Raises:
        SliceError: The student is no slice of the teacher.
    """
    if family_of(teacher) is None:
        raise SliceError(f'there is no rule to slice {type(teacher).__name__}, the teacher',
                         f'{ANEW}; BasicSR\'s {", ".join(NAMES)} can be sliced')
    if type(student) is not type(teacher):
        raise SliceError(f'the student is of the class {type(student).__name__} and the teacher of '
                         f'{type(teacher).__name__}: a slice has the architecture of what it is cut from',
                         f'take a student of the class {type(teacher).__name__}')
    family = cast(Family, family_of(student))
    _check_settings(family, student, teacher)
    sources, state = _sources(family, student, teacher), student.state_dict()
    weights = {name: tensor.detach().cpu() for name, tensor in teacher.named_parameters()}  # on any device the same
    pieces = {name: Piece(name, _axes(family, student, name, tensor), tensor.shape, weights[sources[name]],
                          re.fullmatch(family.gates, name.rpartition('.')[0]) is not None)
              for name, tensor in student.named_parameters()}
    heads: dict[str, Any] = {
        path: (module.num_heads, teacher.get_submodule(_source(family, path, student, teacher)).num_heads)
        for path, module in student.named_modules() if path.endswith('.attn')}
    kept = choose(pieces.values(), heads)
    return {name: pieces[name].cut(kept) if name in pieces else tensor.clone() for name, tensor in state.items()}


def spaced(blocks: int, chosen: int) -> list[int]:
    """Indices of blocks, evenly spaced from the first to the last; of a single one the first.

    >>> spaced(5, 2), spaced(20, 6)
    ([0, 4], [0, 4, 8, 11, 15, 19])

    Returns:
        As many as chosen, in their order.
    """
    gaps = max(chosen - 1, 1)
    return [(2 * number * (blocks - 1) + gaps) // (2 * gaps) for number in range(chosen)]


def _axes(family: Family, student: nn.Module, name: str, tensor: Tensor) -> Axes:
    found = axes_of(family, name, tensor.ndim)
    if found is None:
        raise SliceError(f'there is no rule to slice {name} of {type(student).__name__}',
                         ANEW)
    return found


def _check_settings(family: Family, student: nn.Module, teacher: nn.Module) -> None:
    """Refuse networks that differ in more than width and depth."""
    for path in family.same:
        own, other = _attribute(student, path), _attribute(teacher, path)
        if str(own) != str(other):
            raise SliceError(f'{path.rpartition(".")[2]} is {_shown(own)} in the student and {_shown(other)} in the '
                             'teacher, so their weights do not mean the same', SAME_SETTINGS)


def _attribute(net: nn.Module, path: str) -> Any:
    """An attribute, also of a module of a module; None where there is none, as in a network without blocks."""
    found: Any = net
    for name in path.split('.'):
        found = dict(found.named_children()).get(name) if name.isdigit() else getattr(found, name, None)
        if found is None:
            return None
    return found


def _shown(value: Any) -> str:
    return str(value.flatten().tolist()) if isinstance(value, Tensor) else str(value)


def _sources(family: Family, student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """The name of the teacher's parameter for each of the student's."""
    sources: dict[str, str] = {}
    for path, module in student.named_modules():
        source = _source(family, path, student, teacher)
        own, others = (dict(net.named_parameters(recurse=False)) for net in (module, teacher.get_submodule(source)))
        _check_same(path, own, others)
        if not any(re.fullmatch(row.path, path) for row in family.rows):
            _check_same(path, dict(module.named_children()), dict(teacher.get_submodule(source).named_children()))
        sources.update({f'{path}.{name}'.lstrip('.'): f'{source}.{name}'.lstrip('.') for name in own})
    return sources


def _check_same(path: str, own: Mapping[str, object], others: Mapping[str, object]) -> None:
    """Refuse what only one of the two networks has."""
    for who, names in (('student', own.keys() - others.keys()), ('teacher', others.keys() - own.keys())):
        if names:
            lone = some(f'{path}.{name}'.lstrip('.') for name in sorted(names))
            raise SliceError(f'only the {who} has {lone}', SAME_SETTINGS)


def _source(family: Family, path: str, student: nn.Module, teacher: nn.Module) -> str:
    """The path of the teacher's module that a module of the student is cut from."""
    own: list[str] = []
    source: list[str] = []
    for part in path.split('.') if path else ():
        row = next((row for row in family.rows if re.fullmatch(row.path, '.'.join(own))), None)
        if row is not None:
            few, many = (len(list(net.get_submodule('.'.join(names)).children()))
                         for net, names in ((student, own), (teacher, source)))
            source.append(str(_block(row, int(part), few, many, '.'.join(own))))
        else:
            source.append(part)
        own.append(part)
    return '.'.join(source)


def _block(row: Row, number: int, few: int, many: int, path: str) -> int:
    """The number of the teacher's child in a row of blocks for a child of the student's."""
    if few > many:
        raise SliceError(f'the student has {few} blocks in {path}, and the teacher {many}: a slice has as many or '
                         'fewer', 'take a student that is not deeper than its teacher')
    inner = number - row.first
    if few == many or inner < 0:
        return number
    if number >= few - row.last:
        return number + many - few
    around = row.first + row.last
    if (few - around) % row.size or (many - around) % row.size:
        raise SliceError(f'the student has {few} blocks in {path}, and the teacher {many}: blocks with shifted windows '
                         'and without stand in turn, so they are dropped in pairs', 'write even numbers of blocks')
    chosen = spaced((many - around) // row.size, (few - around) // row.size)
    return row.first + chosen[inner // row.size] * row.size + inner % row.size
