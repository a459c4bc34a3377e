"""The table of all methods, for the page and for the terminal; each column only where something is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import torch

from mipkd_plugin.inference import report
from mipkd_plugin.inference.naturalness import NEEDS
from mipkd_plugin.inference.pictures import BICUBIC, HR
from mipkd_plugin.pages.curves import Run
from mipkd_plugin.pages.means import Means, Scores
from mipkd_plugin.pages.methods import Method
from mipkd_plugin.pages.scenes import number
from mipkd_plugin.utils.words import counted, some

_SIDE = 128  # of the LR image that is timed, as in reports
_NONE = '–'


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        label: The method.
        file: Its weights file; '' without one.
        network: Its architecture.
        iteration: Iteration of the file, if its name says so.
        parameters: Number of parameters.
        milliseconds: Time for an LR image.
        scores: Means over the images.
    """

    label: str
    file: str = ''
    network: str = ''
    iteration: str = ''
    parameters: int | None = None
    milliseconds: float = math.nan
    scores: Scores = field(default_factory=Scores)


@dataclass(frozen=True)
class Times:
    """How long the networks take.

    Attributes:
        milliseconds: Median of several runs in turn, by label.
        size: Width and height of the LR image.
        where: The device and its threads.
    """

    milliseconds: Mapping[str, float]
    size: tuple[int, int]
    where: str


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        name: Its head.
        cells: One of each row.
        is_text: Whether it holds no numbers.
    """

    name: str
    cells: list[str]
    is_text: bool = False


def time_all(methods: Sequence[Method]) -> Times:
    """Measure how long the networks take for an LR image of 128×128 pixels, or of one tile if that is smaller.

    Args:
        methods: The networks, on one device.

    Returns:
        The times.
    """
    networks = {method.label: method.run for method in methods}
    side = min([_SIDE, *(method.run.tile for method in methods if method.run.tile is not None)])
    size = report.fitting(networks, (side, side))
    device = methods[0].run.device
    threads = '' if device.type == 'cuda' else f', {counted(torch.get_num_threads(), "thread")}'
    return Times(report.times_of(networks, size, statistics.median), size, f'{report.name_of(device)}{threads}')


def entries_of(methods: Sequence[Method], means: Means, times: Times, runs: Sequence[Run]) -> list[Entry]:
    """The rows of the table: bicubic, all networks, and HR where its NIQE is known.

    Args:
        methods: The networks.
        means: What was measured on the images.
        times: How long the networks take.
        runs: The trainings of the weights files.

    Returns:
        The rows.
    """
    found = [Entry(BICUBIC, scores=means.of(BICUBIC))]
    for method in methods:
        at = next((run.iteration for run in runs if run.label == method.label), None)
        iteration = f'{at:,d}' if at is not None else 'latest' if method.weights.stem.endswith('_latest') else ''
        found.append(Entry(method.label, str(method.weights), method.kind, iteration, method.parameters,
                           times.milliseconds[method.label], means.of(method.label)))
    truth = means.of(HR)
    return found if truth.niqe is None or math.isnan(truth.niqe) else [*found, Entry(HR, scores=truth)]


def captions(means: Means, times: Times, scale: int) -> list[str]:
    """What the numbers of the table are, a line each.

    Args:
        means: What was measured on the images.
        times: How long the networks take.
        scale: Scale factor.

    Returns:
        The lines.
    """
    known, lines = means.of(BICUBIC), list[str]()
    if known != Scores():
        lines.append(f'Means over {counted(means.images, "image")}, of the Y channel without {scale} pixels at each '
                     'edge.' + (" PSNR to a teacher: to the teacher's own image of the same LR image."
                                if known.to_teachers else ''))
    if known.niqe is not None:
        lines.append("NIQE (BasicSR's calculate_niqe; lower is better) tells how natural an image looks. It knows no "
                     'original: invented detail may have a low one too.')
    if means.without_niqe:
        left_out = f'There is no NIQE of {counted(len(means.without_niqe), "image")} ({some(means.without_niqe)})'
        lines.append(f'{left_out}: it needs {NEEDS}, without {scale} pixels at each edge.')
    lines.append(f'Milliseconds: for an LR image of {times.size[0]}×{times.size[1]} pixels, median of up to 5 runs in '
                 f'turn behind one that does not count, on {times.where}, float32.')
    return lines


def columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns that have something to say, without the names of the rows.

    Args:
        entries: The rows.

    Returns:
        The columns; that of NIQE is there if it was asked for, even if no image is large enough.
    """
    scores = [entry.scores for entry in entries]
    teachers = dict.fromkeys(teacher for found in scores for teacher in found.to_teachers)
    niqe = [number(math.nan if found.niqe is None else found.niqe, 3) for found in scores]
    found = [
        Column('PSNR to HR (dB)', [number(found.psnr, 3) for found in scores]),
        Column('SSIM', [number(found.ssim, 4) for found in scores]),
        *(Column(f'PSNR to {teacher} (dB)', [number(found.to_teachers.get(teacher, math.nan), 3) for found in scores])
          for teacher in teachers),
        Column('NIQE', niqe),
        Column('parameters', [_NONE if entry.parameters is None else f'{entry.parameters:,d}' for entry in entries]),
        Column('milliseconds', [number(entry.milliseconds, 1) for entry in entries]),
        Column('iteration', [entry.iteration or _NONE for entry in entries]),
        Column('network', [entry.network or _NONE for entry in entries], True),
        Column('file', [entry.file or _NONE for entry in entries], True)]
    asked = any(found.niqe is not None for found in scores)
    return [column for column in found if set(column.cells) != {_NONE} or (column.name == 'NIQE' and asked)]


def table_html(entries: Sequence[Entry]) -> str:
    """The table as HTML."""
    found = columns(entries)
    kinds = [' class="text"' if column.is_text else '' for column in found]
    head = ''.join(f'<th scope="col"{kind}>{escape(column.name)}</th>' for column, kind in zip(found, kinds))
    rows = ''.join(f'<tr><th scope="row">{escape(entry.label)}</th>' + ''.join(
        f'<td{kind}>{escape(column.cells[line])}</td>' for column, kind in zip(found, kinds)) + '</tr>'
        for line, entry in enumerate(entries))
    return f'<table><thead><tr><th scope="col">name</th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def table_text(entries: Sequence[Entry]) -> list[str]:
    """The numbers of the table as lines of text."""
    found = [Column('', [entry.label for entry in entries], True),
             *(column for column in columns(entries) if not column.is_text)]
    widths = [max(map(len, (column.name, *column.cells))) for column in found]
    rows = zip(*([column.name, *column.cells] for column in found))
    return ['  '.join(f'{cell:{"<" if column.is_text else ">"}{width}}' for cell, column, width in zip(
        row, found, widths)).rstrip() for row in rows]
