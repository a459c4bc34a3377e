"""The end of ``mipkd distill``: bicubic, student and teacher on the validation images, as a table and a picture."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from basicsr.data import build_dataset
from torch import nn
from tqdm import tqdm

from mipkd_plugin.compare.step_times import quietly
from mipkd_plugin.config.trained import load_trained
from mipkd_plugin.inference.cost import IN_SHORT
from mipkd_plugin.inference.pictures import (
    BICUBIC,
    HR,
    TEACHER,
    Panel,
    Pixels,
    Strip,
    as_picture,
    as_png,
    choose_boxes,
    draw,
    enlarged,
    measured,
)
from mipkd_plugin.inference.tiles import Enlarger
from mipkd_plugin.recipes.students_work import Measured, Teacher, channels_of, times
from mipkd_plugin.recipes.students_work import measured as counted_work
from mipkd_plugin.utils.files import write_bytes, write_text
from mipkd_plugin.utils.words import counted

STUDENT = 'student'
TABLE, PICTURE = 'table.md', 'comparison.png'
_SHOWN = 3
_DETAIL = 96
_TILE = 512


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: What made the images.
        own: The network and its size; None for interpolation.
        quality: PSNR (dB) and SSIM of each image.
    """

    name: str
    own: Measured | None
    quality: list[tuple[float, float]] = field(default_factory=list)

    @property
    def net(self) -> nn.Module | None:
        """The network; None for interpolation."""
        return self.own.net if self.own is not None else None

    def means(self) -> tuple[float, float]:
        """Mean PSNR and SSIM."""
        psnr, ssim = zip(*self.quality)
        return statistics.fmean(psnr), statistics.fmean(ssim)


def student_file(opt: Mapping[str, Any]) -> Path:
    """The trained student of a run that has come to its end."""
    return Path('experiments', str(opt['name']), 'models', 'net_g_latest.pth')


def next_lines(opt: Mapping[str, Any], option_file: Path, out: Path) -> list[str]:
    """What to type with the student of a run, with the images it was validated on.

    Args:
        opt: The options of the run.
        option_file: Their file.
        out: Folder of the results.

    Returns:
        The lines; ``DIR`` stands for images where those are in an LMDB.
    """
    weights = student_file(opt)
    hr, lr = (folder if os.path.isdir(folder) and not folder.endswith('.lmdb') else 'DIR' for folder in (
        str(opt['datasets']['val'][key]) for key in ('dataroot_gt', 'dataroot_lq')))
    own = ['-opt', option_file, '--weights', weights]
    lines = (['upscale', *own, '--images', lr, '--out', out / 'upscaled'], ['export', *own, '--to', 'onnx'],
             ['report', *own], ['show', *own, '--images', hr])
    return [shlex.join(['mipkd', *map(str, line)]) for line in lines]


def is_up_to_date(out: Path, weights: Path) -> bool:
    """Whether table and picture are there, and are of these weights."""
    newest = os.stat(weights).st_mtime
    return all(os.path.isfile(out / name) and os.stat(out / name).st_mtime >= newest for name in (TABLE, PICTURE))


def show(opt: Mapping[str, Any], teacher: Teacher, out: Path, threads: int) -> str:
    """Measure and draw.

    Args:
        opt: The options of the run.
        teacher: The teacher.
        out: Folder for ``table.md`` and ``comparison.png``.
        threads: CPU threads; 0 leaves them as they are.

    Returns:
        The table, in Markdown, and what it says.

    Raises:
        OptionError: The student's weights cannot be loaded.
        OSError: A file cannot be written.
    """
    scale = int(opt['scale'])
    nets = [(opt['network_g'], load_trained(opt, student_file(opt))), (teacher.network, teacher.build().eval())]
    own = [counted_work(network, scale, channels_of(network), net) for network, net in nets]
    rows = [Row(BICUBIC, None), Row(STUDENT, own[0]), Row(TEACHER, own[1])]
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    with quietly(threads):
        strips = _compare(rows, _pairs(opt), scale, device)
        text = _table(rows, scale, opt['datasets']['val']['name'], len(rows[0].quality))
    write_text(out / TABLE, f'{text}\n')
    note = 'PSNR of the whole image; details: where teacher and bicubic differ most'
    write_bytes(out / PICTURE, as_png(draw(strips, note)))
    return text


def _pairs(opt: Mapping[str, Any]) -> Any:
    """The validation set as BasicSR reads it."""
    entries = deepcopy(dict(opt['datasets']['val']))
    return build_dataset({**entries, 'phase': 'val', 'scale': opt['scale']})


def _compare(rows: list[Row], pairs: Any, scale: int, device: torch.device) -> list[Strip]:
    """Measure all rows on all images; return the details of some images."""
    nets = [row.net.to(device) for row in rows if row.net is not None]
    runs = {id(net): Enlarger(net, scale, _TILE) for net in nets}
    strips, shown = [], {round((number + 0.5) * len(pairs) / _SHOWN - 0.5) for number in range(_SHOWN)}
    for index in tqdm(range(len(pairs)), 'compare', unit='image', leave=False, disable=None):
        pair = pairs[index]
        lr, truth = as_picture(pair['lq']), as_picture(pair['gt'])
        truth = truth[:lr.shape[0] * scale, :lr.shape[1] * scale]
        images = [enlarged(lr, scale)[1] if row.net is None else
                  as_picture(runs[id(row.net)](pair['lq'][None]).clamp(0, 1)) for row in rows]
        for row, image in zip(rows, images):
            row.quality.append(measured(image, truth, scale))
        if index in shown or len(pairs) <= _SHOWN:
            strips.append(_strip(Path(pair['gt_path']).stem, rows, images, truth, scale))
    return strips


def _strip(name: str, rows: list[Row], images: list[Pixels], truth: Pixels, scale: int) -> Strip:
    box = choose_boxes([images[0], images[-1]], truth, _DETAIL, border=scale)[0]
    panels = [Panel(row.name, box.of(image), f'{row.quality[-1][0]:.2f} dB') for row, image in zip(rows, images)]
    return Strip(name, truth, box, [*panels, Panel(HR, box.of(truth))])


def _table(rows: list[Row], scale: int, name: str, count: int) -> str:
    owned = [row.own for row in rows if row.own is not None]
    taken, where = times(owned[::-1])  # the teacher first: the image is large enough for it
    cells = [['', 'parameters', 'GMACs', 'ms', 'PSNR', 'SSIM'], ['---', *['---:'] * 5]]
    by_name = dict(zip((row.name for row in rows if row.own is not None), taken[::-1]))
    for row in rows:
        psnr, ssim = row.means()
        own = ['', '', '']
        if row.own is not None:
            own = [f'{row.own.parameters:,d}', f'{row.own.macs(scale) / 1e9:,.1f}', f'{by_name[row.name]:,.1f}']
        cells.append([row.name, *own, f'{psnr:.2f}', f'{ssim:.4f}'])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [f'| {" | ".join(cell.ljust(width) for cell, width in zip(line, widths))} |' for line in cells]
    return '\n'.join([*lines, '', f'x{scale}; PSNR (dB) and SSIM of Y, without a border of {scale} pixels, mean of '
                      f'{counted(count, "image")} of {name}.', f'{IN_SHORT}.', f'ms: for {where}.', '',
                      _conclusion(rows)])


def _conclusion(rows: list[Row]) -> str:
    """What the numbers say, and no more."""
    bicubic, student, teacher = (round(row.means()[0], 2) for row in rows)
    gain = f'The student is {abs(student - bicubic):.2f} dB {"above" if student > bicubic else "below"} bicubic'
    longer = 'Train it longer: more --iterations, in another folder (--out).'
    if teacher <= bicubic:
        below = [f'The student is {teacher - student:.2f} dB below it. {longer}'] if student < teacher else []
        return ' '.join([f'{gain}.', f'The teacher is {bicubic - teacher:.2f} dB below bicubic. Teachers that were '
                         'trained for looks, or for photographs with blur and noise, often are: look at the picture, '
                         'PSNR says little here.', *below])
    if student < bicubic:
        return f'{gain}: it has not trained long enough. {longer}'
    return f'{gain} and {abs(teacher - student):.2f} dB {"below" if student < teacher else "above"} the teacher.'
