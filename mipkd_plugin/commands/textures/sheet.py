"""The textures that a KRNet extracts from one image, as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipkd_plugin.archs.krnet_arch import KRNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

KERNELS_SHOWN = 8


@dataclass(frozen=True)
class TapTextures:
    """The textures that one KRNet extracts from one image, in units of its feature scale.

    Attributes:
        student: |U_S^g|, mean over the channels (G, H, W).
        teacher: |U_T^g|, mean over the channels (G, H, W).
        difference: |U_S^g − U_T^g|, mean over the channels (G, H, W).
        channels: Channels with the most energy Σ (U_T^g)² of each texture, the strongest first (G, M).
        kernels: Kernels of these channels (G, M, k, k).
        weights: w_g, with the sum 1 (G,).
    """

    student: NDArray[np.float32]
    teacher: NDArray[np.float32]
    difference: NDArray[np.float32]
    channels: NDArray[np.int64]
    kernels: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def distance(self) -> float:
        """L_kr of this tap and image: Σ_g w_g |U_S^g − U_T^g|, without the weight λ_kr of the loss."""
        return float((self.weights * self.difference.mean((1, 2))).sum())


@torch.no_grad()
def look(network: KRNet, student_feature: Tensor, teacher_feature: Tensor) -> TapTextures:
    """Apply a KRNet to the features of one image.

    Args:
        network: The KRNet, in eval mode.
        student_feature: F_S (1, C_S, H, W).
        teacher_feature: F_T (1, C, H, W).

    Returns:
        The textures.

    Raises:
        ValueError: The features belong to more than one image.
    """
    if len(student_feature) != 1 or len(teacher_feature) != 1:
        raise ValueError(f'the features must be of one image, got {len(student_feature)} and {len(teacher_feature)}')
    projected, teacher = network.project(student_feature), teacher_feature / network.scale
    kernels, weights = network.generate(projected, teacher)
    rows: list[list[Tensor]] = []
    for g in range(kernels.shape[2]):  # one by one: all textures of a whole image take much memory
        own = kernels[:, :, g:g + 1]
        of_student, of_teacher = (network.textures(feature, own)[0, :, 0] for feature in (projected, teacher))
        energy = of_teacher.square().sum((1, 2))
        strongest = energy.argsort(descending=True, stable=True)[:KERNELS_SHOWN]
        maps = [texture.abs().mean(0) for texture in (of_student, of_teacher, of_student - of_teacher)]
        rows.append([*maps, strongest, kernels[0, strongest, g]])
    student, other, difference, channels, shown = (torch.stack(column).cpu().numpy() for column in zip(*rows))
    return TapTextures(student, other, difference, channels, shown, weights[0].cpu().numpy())


@dataclass(frozen=True)
class Caption:
    """The text on a sheet.

    Attributes:
        title: First line, in large letters.
        lines: At most three lines below it.
    """

    title: str
    lines: Sequence[str]


# all sizes in inches
_MARGIN, _PANEL, _HEADER, _HEADINGS, _BELOW, _LEAST_ROW = 0.3, 2.3, 1.9, 0.45, 0.3, 1.5
_COLUMNS = {'label': 0.4, 'student': _PANEL, 'gap': 0.12, 'teacher': _PANEL, 'second gap': 0.12,
            'difference': _PANEL, 'map scale': 1.0, 'kernels': 2.9, 'kernel scale': 1.0, 'weight': 1.2}
_HEADINGS_TEXT = {'student': 'student  $|U_S|$', 'teacher': 'teacher  $|U_T|$',
                  'difference': 'difference  $|U_S - U_T|$', 'kernels': 'kernels, strongest channels first',
                  'weight': 'weight  $w$'}
_GUIDE = ('Each row is one texture g: kernels made for this image (right) filter the projected feature of the student '
          'and the feature of the teacher.',
          'Bright: a strong response (mean over the channels, in units of the feature scale). The three maps of a row '
          'share one color scale.')


class _Page:
    """A figure whose axes are placed in inches from the left and the top."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width, height), dpi=120)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((left / self.width, 1 - (top + height) / self.height,
                                     width / self.width, height / self.height))

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, **{'va': 'top', **style})


def draw_sheet(textures: TapTextures, crop: NDArray[np.float32], caption: Caption, path: Path) -> None:
    """Draw the textures of one tap, one per row, below the image.

    Args:
        textures: The textures.
        crop: The LR image, RGB in [0, 1], (H, W, 3).
        caption: The text beside the image.
        path: PNG file to write.
    """
    count, height, width = textures.student.shape
    panel_height = _PANEL * min(height / width, 1.0)
    row_height = max(panel_height, _LEAST_ROW) + _BELOW
    lefts, right = {}, _MARGIN
    for name, size in _COLUMNS.items():
        lefts[name] = right
        right += size
    top = _MARGIN + _HEADER + _HEADINGS
    page = _Page(right + _MARGIN, top + count * row_height + _MARGIN / 2)
    _draw_header(page, crop, caption)
    for name, heading in _HEADINGS_TEXT.items():
        page.text(lefts[name] + _COLUMNS[name] / 2, top - 0.12, heading, ha='center', va='bottom', fontsize=11)
    strongest = float(np.abs(textures.kernels).max()) or 1.0
    for g in range(count):
        y = top + g * row_height
        _draw_maps(page, textures, g, y, row_height - _BELOW, panel_height, lefts)
        _draw_kernels(page, textures, g, y, row_height - _BELOW, lefts, strongest)
        _draw_weight(page, float(textures.weights[g]), y, row_height - _BELOW, lefts['weight'])
    page.figure.savefig(path)


def _draw_header(page: _Page, crop: NDArray[np.float32], caption: Caption) -> None:
    height, width = crop.shape[:2]
    factor = min(_HEADER / height, 1.6 * _HEADER / width)
    left = _MARGIN + _COLUMNS['label']
    axes = page.axes(left, _MARGIN, width * factor, height * factor)
    axes.imshow(crop, interpolation='nearest')
    axes.set_axis_off()
    left += width * factor + 0.3
    room = page.width - left - _MARGIN
    # names of runs and files are not formulas; a long title gets smaller letters
    page.text(left, _MARGIN, caption.title, fontsize=min(16, 108 * room / len(caption.title)), fontweight='bold',
              parse_math=False)
    for number, line in enumerate(caption.lines):
        page.text(left, _MARGIN + 0.42 + 0.26 * number, line, fontsize=min(11, 115 * room / len(line)),
                  parse_math=False)
    for number, line in enumerate(_GUIDE):
        page.text(left, _MARGIN + _HEADER - 0.46 + 0.24 * number, line, fontsize=9.5, color='0.35')


def _draw_maps(page: _Page, textures: TapTextures, g: int, top: float, room: float, height: float,
               lefts: dict[str, float]) -> None:
    """Draw the three maps of one texture on one color scale, each with its mean below."""
    middle = top + (room - height) / 2
    page.text(lefts['label'], middle + height / 2, f'texture {g + 1}', rotation=90, va='center', fontsize=11)
    maps = {'student': textures.student[g], 'teacher': textures.teacher[g], 'difference': textures.difference[g]}
    brightest = float(max(np.quantile(texture, 0.998) for texture in maps.values())) or 1.0
    width = height * maps['student'].shape[1] / maps['student'].shape[0]
    for name, texture in maps.items():
        left = lefts[name] + (_PANEL - width) / 2
        axes = page.axes(left, middle, width, height)
        image = axes.imshow(texture, cmap='magma', vmin=0, vmax=brightest, interpolation='nearest')
        axes.set_axis_off()
        page.text(left + width / 2, middle + height + 0.05, f'mean {texture.mean():#.3g}', ha='center', fontsize=8.5,
                  color='0.35')
    _draw_scale(page, image, left + width + 0.12, middle, height, extend='max')


def _draw_kernels(page: _Page, textures: TapTextures, g: int, top: float, room: float, lefts: dict[str, float],
                  strongest: float) -> None:
    """Draw the kernels of one texture side by side with their channel numbers; blue is negative, red positive."""
    kernels, side = textures.kernels[g], textures.kernels.shape[-1]
    columns = -(-len(kernels) // 2) if len(kernels) > 4 else len(kernels)
    axes = page.axes(lefts['kernels'], top, _COLUMNS['kernels'], room)
    for number, kernel in enumerate(kernels):
        x, y = number % columns * 1.2, number // columns * 1.45
        edges = np.linspace(0, 1, side + 1)
        mesh = axes.pcolormesh(x + edges, y + edges, kernel, cmap='RdBu_r', vmin=-strongest, vmax=strongest,
                               edgecolors='0.6', linewidth=0.5)
        axes.text(x + 0.5, y + 1.05, f'ch {textures.channels[g, number]}', ha='center', va='top', fontsize=7.5,
                  color='0.35')
    axes.set_aspect('equal')
    axes.set_xlim(-0.05, columns * 1.2 - 0.15)
    axes.set_ylim(-(-len(kernels) // columns) * 1.45 - 0.15, -0.05)
    axes.set_axis_off()
    if g == 0:  # all rows share this scale
        _draw_scale(page, mesh, lefts['kernel scale'] + 0.05, top + 0.1, room - 0.2)


def _draw_scale(page: _Page, colors: ScalarMappable, left: float, top: float, height: float,
                extend: str = 'neither') -> None:
    bar = page.figure.colorbar(colors, cax=page.axes(left, top, 0.1, height), extend=extend, format='%.3g')
    bar.ax.tick_params(labelsize=8)


def _draw_weight(page: _Page, weight: float, top: float, room: float, left: float) -> None:
    """Draw the weight as a bar from 0 to 1 with its value above."""
    axes = page.axes(left, top + room / 2, _COLUMNS['weight'], 0.16)
    axes.barh(0, weight, color='0.25', height=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([])
    axes.set_xticks([0, 1])
    axes.tick_params(labelsize=8, length=2)
    page.text(left + _COLUMNS['weight'] / 2, top + room / 2 - 0.06, f'{weight:.3f}', ha='center', va='bottom',
              fontsize=13)
