"""Pictures of a validation: a detail as LR, bicubic, student, teacher and HR show it."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from mipkd_plugin.inference.pictures import (
    BICUBIC,
    HR,
    LR,
    TEACHER,
    Box,
    Panel,
    Pixels,
    Strip,
    as_picture,
    choose_boxes,
    draw,
    enlarged,
    psnr,
)
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.padding import needed_multiple, padded
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.files import write_bytes
from mipkd_plugin.utils.random_numbers import random_numbers_restored

DETAIL = 96
"""Side of a detail, in HR pixels."""


class FrozenTeacher(nn.Module):
    """Runs a teacher on whole images of any size, in eval mode, and leaves it and all random numbers as they are.

    Args:
        net: The teacher.
        execution: How it runs.
        scale: Scale factor.
    """

    def __init__(self, net: nn.Module, execution: Execution = PLAIN, scale: int = 1) -> None:
        super().__init__()
        self._run = execution.run
        self.net = net
        self.scale = scale

    def forward(self, lq: Tensor) -> Tensor:
        """Run the teacher on images that it takes."""
        return self._run(self.net, lq)

    def upscale(self, lq: Tensor) -> Tensor:
        """Run the teacher on one image (1, C, H, W); returns (1, C, sH, sW) on the CPU."""
        device = next((parameter.device for parameter in self.net.parameters()), lq.device)
        with random_numbers_restored([device] if device.type == 'cuda' else []), evaluating(self):
            image = padded(lq.to(device), needed_multiple(self, lq.shape[1], self.scale))
            output: Tensor = self(image)[:, :, :lq.shape[2] * self.scale, :lq.shape[3] * self.scale]
        return output.float().cpu()


@dataclass(frozen=True)
class _Known:
    """What stays the same about one image from validation to validation, as long as ``content`` does."""

    name: str
    content: int
    box: Box
    truth: Pixels | None
    before: list[Panel]
    after: list[Panel]


class ValidationPictures:
    """Draws the first images of each validation, by name.

    What does not change is computed at the first validation and kept: the detail, its LR and bicubic form, and what
    the teacher makes of it. The teacher runs once per image and run of the program.

    Args:
        count: Number of images of each data set.
        scale: Scale factor.
        teachers: Runs the teacher on one image (1, C, H, W); or each of several, by label; None: there is no teacher.
        last: Number of the last iteration; BasicSR gives its last validation a higher one.
    """

    def __init__(self, count: int, scale: int, teachers: Callable[[Tensor], Tensor] |
                 Mapping[str, Callable[[Tensor], Tensor]] | None = None, last: int = sys.maxsize) -> None:
        self._count, self._scale, self._last = count, scale, last
        self._teachers = {TEACHER: teachers} if callable(teachers) else dict(teachers or {})
        self._known: dict[tuple[int, int], _Known] = {}
        self._strips: list[Strip] = []
        self._dataset: str | None = None
        self._place = 0
        self._names: dict[int, str] = {}
        self._seen = 0

    @contextmanager
    def of(self, dataset: Any) -> Iterator[None]:
        """Inside the block, a data set is validated."""
        self._strips, self._seen, self._names = [], 0, _first_names(dataset, self._count)
        self._dataset = str(getattr(dataset, 'opt', {}).get('name', 'validation'))
        self._place = id(dataset)  # two data sets may have one name
        try:
            yield
        finally:
            self._dataset = None

    def add(self, lq: Tensor, output: Tensor, gt: Tensor | None) -> None:
        """Look at the next image of a validation; outside of one, do nothing.

        Args:
            lq: The image (1, C, H, W).
            output: What the student makes of it (1, C, sH, sW).
            gt: The original, if there is one.
        """
        number, self._seen = self._seen, self._seen + 1
        if self._dataset is None or number not in self._names or not torch.isfinite(output).all():
            return
        if gt is not None and gt.shape != output.shape:  # left over from training: the data set has no originals
            gt = None
        key, content = (self._place, number), zlib.crc32(as_picture(lq).tobytes())
        if key not in self._known or self._known[key].content != content:
            self._known[key] = self._look(self._names[number], content, lq, gt)
        known, image = self._known[key], as_picture(output)
        panel = self._panel('student', image, known.box, known.truth, lq.shape[1])
        whole = image if known.truth is None else known.truth
        self._strips.append(Strip(known.name, whole, known.box, [*known.before, panel, *known.after]))

    def write(self, folder: Path | None, tb_logger: Any, iteration: int) -> None:
        """Write the pictures of the present validation to ``<folder>/<data set>/<image>_<iteration>.png``.

        A picture that cannot be written is a warning: the training is worth more.

        Args:
            folder: The folder of pictures of the run; None: there is none.
            tb_logger: TensorBoard's writer, which gets them too, if there is one.
            iteration: The iteration after which it took place.
        """
        for strip in sorted(self._strips, key=lambda strip: strip.name):
            picture = draw([strip], 'PSNR of Y, whole image')
            if folder is not None:
                _write_picture(folder / str(self._dataset) / f'{strip.name}_{min(iteration, self._last)}.png', picture)
            if tb_logger is not None:
                tb_logger.add_image(f'pictures/{self._dataset}/{strip.name}', picture[:, :, ::-1].copy(), iteration,
                                    dataformats='HWC')

    def _look(self, name: str, content: int, lq: Tensor, gt: Tensor | None) -> _Known:
        squares, bicubic = enlarged(as_picture(lq), self._scale)
        truth = None if gt is None else as_picture(gt)
        box = choose_boxes([bicubic], truth, DETAIL, border=self._scale)[0]
        channels = lq.shape[1]
        before = [Panel(LR, box.of(squares).copy()), self._panel(BICUBIC, bicubic, box, truth, channels)]
        images = {label: self._of_teacher(label, name, lq) for label in self._teachers}
        after = [self._panel(label, image, box, truth, channels)
                 for label, image in images.items() if image is not None]
        if truth is not None:
            after.append(Panel(HR, box.of(truth)))
        return _Known(name, content, box, truth, before, after)

    def _of_teacher(self, label: str, name: str, lq: Tensor) -> Pixels | None:
        """What a teacher makes of a whole image; None where it fails: training needs patches only."""
        try:
            return as_picture(self._teachers[label](lq))
        except FOREIGN_ERRORS as error:
            get_root_logger().warning(f'logger.val_pictures: the {label} is left out of the picture of {name}, because '
                                      f'it cannot run on the whole image: {reason(error)}')
            return None

    def _panel(self, label: str, image: Pixels, box: Box, truth: Pixels | None, channels: int) -> Panel:
        note = ''
        if truth is not None:
            own, other = (image, truth) if channels != 1 else (image[:, :, :1], truth[:, :, :1])
            note = f'{psnr(own, other, self._scale):.2f} dB'
        return Panel(label, box.of(image).copy(), note)


def _write_picture(path: Path, picture: Pixels) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, cv2.imencode('.png', picture)[1].tobytes())
    except OSError as error:
        get_root_logger().warning(f'logger.val_pictures: {path} cannot be written: {reason(error)}')


def _first_names(dataset: Any, count: int) -> dict[int, str]:
    """Number and name of the first images of a data set by name: BasicSR reads a folder in any order."""
    try:
        names = [Path(str(path['lq_path'] if isinstance(path, Mapping) else path)).stem for path in dataset.paths]
    except (AttributeError, KeyError, TypeError):
        return {number: str(number + 1) for number in range(count)}
    return {number: names[number] for number in sorted(range(len(names)), key=names.__getitem__)[:count]}
