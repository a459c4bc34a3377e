"""Which channels of a teacher a slice keeps, and the tensors that are left of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mipkd_plugin.networks.slice_rules import SAME_SETTINGS, Axes, SliceError


@dataclass(frozen=True)
class Piece:
    """A tensor of the student, and the teacher's that it is cut from.

    Attributes:
        name: Its name.
        axes: Groups of channels along each axis.
        shape: Its shape.
        source: The teacher's tensor.
        is_gate: Whether it weighs channels and does not write them.
    """

    name: str
    axes: Axes
    shape: torch.Size
    source: Tensor
    is_gate: bool

    def cut(self, kept: Mapping[str, Group]) -> Tensor:
        """The student's tensor.

        Args:
            kept: The channels to keep, by the name of their group.

        Returns:
            The teacher's entries of the channels that are kept.

        Raises:
            SliceError: They have another shape than the student needs.
        """
        found = self.source
        for axis, names in enumerate(self.axes):
            if names:
                found = found.index_select(axis, _entries(names, found.shape[axis], kept))
        if found.shape != self.shape:
            raise SliceError(f'{self.name} has the shape {tuple(self.shape)}, and a slice of the teacher\'s '
                             f'{tuple(self.source.shape)} would have {tuple(found.shape)}', SAME_SETTINGS)
        return found.clone()


@dataclass(frozen=True)
class Group:
    """Channels that stay together: how many the teacher has, and which the student keeps."""

    size: int
    kept: Tensor


def _entries(names: str, length: int, kept: Mapping[str, Group]) -> Tensor:
    """Indices along an axis of the teacher's tensor that belong to kept channels."""
    found, offset = [], 0
    for name in names.split('+'):
        group = kept[name.rstrip('*')]
        repeat = length // group.size if name.endswith('*') else 1
        found.append(offset + (group.kept[:, None] * repeat + torch.arange(repeat)).flatten())
        offset += group.size * repeat
    return torch.cat(found)


def choose(pieces: Iterable[Piece], heads: Mapping[str, tuple[int, int]]) -> dict[str, Group]:
    """Choose the channels of all groups.

    Args:
        pieces: All tensors.
        heads: Number of attention heads of student and teacher, by path of the attention.

    Returns:
        The channels to keep, by the name of their group.

    Raises:
        SliceError: The student has more channels or heads than the teacher.
    """
    pieces = list(pieces)
    own, whole = _sizes((piece.axes, piece.shape) for piece in pieces), _sizes(
        (piece.axes, piece.source.shape) for piece in pieces)
    for name, size in own.items():
        if size > whole[name] and not name.endswith('.heads'):
            first = next(piece for piece in pieces if name in piece.axes)
            raise SliceError(f'the student has {size} channels where the teacher has {whole[name]} (in {first.name}): '
                             'a slice has as many or fewer', 'take a student with no more channels there than its '
                             'teacher (num_feat, embed_dim, mlp_ratio, squeeze_factor)')
    norms = _norms(pieces, whole)
    kept = {name: Group(whole[name], _largest(norms.get(name, torch.zeros(whole[name])), size))
            for name, size in own.items()}
    for attention, (few, many) in heads.items():
        kept |= _kept_heads(attention, few, many, own[f'{attention}.v'], norms)
    return kept


def _sizes(tensors: Iterable[tuple[Axes, torch.Size]]) -> dict[str, int]:
    """Number of channels of each group that some tensor has along an axis of its own."""
    return {name: size for axes, shape in tensors for name, size in zip(axes, shape)
            if name and name[-1] != '*' and '+' not in name}


def _norms(pieces: Iterable[Piece], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """L1 norm of the filters that write each channel, summed over all tensors that do, by group."""
    norms: dict[str, Tensor] = {}
    for piece in pieces:
        if piece.source.ndim < 2 or piece.is_gate or not piece.axes[0]:
            continue
        filters, offset = piece.source.abs().flatten(1).sum(1), 0
        names = piece.axes[0].split('+')
        for name in names:
            group = name.rstrip('*')
            size = sizes.get(group, len(filters) // len(names))
            own = filters[offset:offset + size] if len(names) > 1 else filters.view(size, -1).sum(1)
            norms[group] = norms[group] + own if group in norms else own
            offset += size
    return norms


def _kept_heads(attention: str, few: int, many: int, width: int, norms: Mapping[str, Tensor]) -> dict[str, Group]:
    """Choose heads, and channels in each of them, those of query and key in common."""
    scores = {name: norms[f'{attention}.{name}'].view(many, -1) for name in ('qk', 'v')}
    depth, full = width // few, scores['v'].shape[1]
    if few > many or depth > full:
        raise SliceError(f'the student has {few} heads of {depth} channels in {attention}, and the teacher {many} of '
                         f'{full}: a slice has as many or fewer of both',
                         f'write as many heads as the teacher has, {many}, or fewer with up to {full} channels each')
    chosen = _largest(scores['qk'].sum(1) + scores['v'].sum(1), few)
    kept = {f'{attention}.heads': Group(many, chosen)}
    for name, score in scores.items():
        inside = torch.stack([_largest(score[head], depth) for head in chosen.tolist()])
        kept[f'{attention}.{name}'] = Group(many * full, (chosen[:, None] * full + inside).flatten())
    return kept


def _largest(norms: Tensor, count: int) -> Tensor:
    """Indices of the largest norms in their order; of equal ones the first."""
    return torch.argsort(norms, descending=True, stable=True)[:count].sort().values
