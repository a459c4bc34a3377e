"""What ``mipkd demo`` shows: the table, one sentence on it and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mipkd_plugin.inference.pictures import Box, Panel, Strip, as_png, draw, measured
from mipkd_plugin.utils.files import write_bytes

BICUBIC, CONTROL, EQUAL_TIME, DISTILLED, TEACHER = (
    'bicubic', 'student', 'student, equal time', 'student, MiPKD', 'teacher')


@dataclass(frozen=True)
class Row:
    """One line of the table, with the images it was measured on (uint8 BGR)."""

    method: str
    psnr: list[float]
    ssim: list[float]
    images: list[np.ndarray]
    parameters: int | None = None
    iterations: int | None = None
    seconds: float | None = None


def measure(method: str, images: list[np.ndarray], truth: list[np.ndarray], border: int, **known: Any) -> Row:
    """Measure PSNR and SSIM of the Y channel, by BasicSR's own functions.

    Args:
        method: Name of the row.
        images: What the method made of the LR images.
        truth: The HR images.
        border: Pixels left out at each edge.
        **known: Other fields of the row.

    Returns:
        A row of the table.
    """
    psnr, ssim = map(list, zip(*(measured(image, hr, border) for image, hr in zip(images, truth))))
    return Row(method, psnr, ssim, images, **known)


def format_table(rows: Sequence[Row]) -> str:
    """The comparison as a Markdown table; PSNR in dB and SSIM are means over the test images."""
    cells = [['method', 'PSNR', 'SSIM', 'parameters', 'iterations', 'training'], ['---'] * 6]
    for row in rows:
        counts = ['' if count is None else f'{count:,}' for count in (row.parameters, row.iterations)]
        took = '' if row.seconds is None else f'{row.seconds:.0f} s'
        cells.append([row.method, f'{np.mean(row.psnr):.2f}', f'{np.mean(row.ssim):.4f}', *counts, took])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in cells]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def conclude(rows: Sequence[Row]) -> str:
    """What the table shows, by the PSNR it prints, and which MiPKD it is."""
    psnr = {row.method: round(float(np.mean(row.psnr)), 2) for row in rows}
    iterations = {row.method: row.iterations or 0 for row in rows}
    lead, against_time = (_lead(psnr[DISTILLED] - psnr[other]) for other in (CONTROL, EQUAL_TIME))
    return (f'With MiPKD the student ends {lead} the same student without distillation after the same '
            f'{iterations[CONTROL]:,} iterations, and {against_time} the one trained for the same time instead '
            f'({iterations[EQUAL_TIME]:,} iterations, by step time); this is one seed.\n\n'
            'MiPKD is made cheap here, without its block chain and on fixed crops: see docs/cheaper.md.')


def _lead(difference: float) -> str:
    size = f'{abs(difference):.2f}'
    return 'level with' if size == '0.00' else f'{size} dB {"above" if difference > 0 else "below"}'


def draw_comparison(rows: Sequence[Row], truth: Mapping[str, np.ndarray], corners: Sequence[tuple[int, int]], crop: int,
                    path: Path) -> None:
    """Draw the same detail of each test image as every method shows it, with the PSNR of the whole image.

    Args:
        rows: The methods, left to right.
        truth: The HR images (uint8 BGR) by their names, top to bottom.
        corners: Top and left of each image's detail.
        crop: Height and width of the detail.
        path: PNG file to write.
    """
    strips = []
    for line, ((name, hr), (top, left)) in enumerate(zip(truth.items(), corners)):
        box = Box(top, left, crop, crop)
        panels = [Panel(row.method, box.of(row.images[line]), f'{row.psnr[line]:.2f} dB') for row in rows]
        strips.append(Strip(name, hr, box, [*panels, Panel('original', box.of(hr))]))
    picture = draw(strips, 'PSNR of the whole image; details: where the teacher gains most over bicubic')
    write_bytes(path, as_png(picture))
