"""The formats of ``mipkd export``: write one, check it, and say how it is loaded elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mipkd_plugin.exporting import ncnn_ready
from mipkd_plugin.exporting.errors import ExportError
from mipkd_plugin.exporting.folder import Lost, loss_on
from mipkd_plugin.exporting.layouts import OWN
from mipkd_plugin.exporting.merging import Merged, merge
from mipkd_plugin.exporting.onnx_export import SIZES, Check, export_onnx, export_padded
from mipkd_plugin.exporting.onnx_file import OPSET, Graph
from mipkd_plugin.exporting.student import Student, check_half, noise
from mipkd_plugin.exporting.torch_files import LOADER, export_basicsr, export_safetensors, export_spandrel, loader_text
from mipkd_plugin.exporting.traceable import has_loop
from mipkd_plugin.utils.files import write_alone, write_bytes

FORMATS = {
    'onnx': ('.onnx', ),
    'safetensors': ('.safetensors', ),
    'spandrel': ('.safetensors', '.pth'),
    'basicsr': ('.pth', ),
    'ncnn-ready-onnx': ('.onnx', ),
}
"""Endings of the files of each format; the first is the usual one."""
GRAPHS = ('onnx', 'ncnn-ready-onnx')
_OPSETS = {'onnx': (11, 20), 'ncnn-ready-onnx': (11, 18)}
_SIZE = re.compile(r'(\d+)[x×](\d+)')
_LARGEST = 4096
_EXISTS = '{} exists and was left as it is; give another name with --out, or replace it with --force'


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        to: One of :data:`FORMATS`.
        out: The file.
        half: Whether to write half precision.
        size: (Height, width) of an ONNX file for one size, or None.
        opset: Version of ONNX's operators, or None for the usual one.
        merges: Whether re-parameterised layers are merged.
        force: Whether an existing file may be replaced.
        images: Folder of high-resolution images, to measure on what the file costs, or None.
    """

    to: str
    out: Path
    half: bool = False
    size: tuple[int, int] | None = None
    opset: int | None = None
    merges: bool = True
    force: bool = False
    images: Path | None = None


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: The file.
        student: What is in it.
        check: What it was checked against.
        merged: What was merged, if anything was.
        notes: What else there is to say.
        beside: Further files that were written.
        graph: How an ONNX file was written.
        operators: The operators of a file for ncnn.
        lost: What the file costs on a folder of images, if there was one.
    """

    path: Path
    student: Student
    check: Check
    merged: Merged | None = None
    notes: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    graph: Graph | None = None
    operators: Sequence[str] = ()
    lost: Lost | None = None


def size_of(text: str) -> tuple[int, int]:
    """Read ``HEIGHTxWIDTH``.

    Args:
        text: From the command line.

    Returns:
        Height and width.

    Raises:
        ExportError: It is something else.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not all(0 < int(side) <= _LARGEST for side in found.groups()):
        raise ExportError(f'--static must be HEIGHTxWIDTH of the low-resolution image in pixels, up to {_LARGEST}, '
                          f'as in --static 180x320, got {text!r}')
    return int(found[1]), int(found[2])


def check_plan(plan: Plan, weights: Path) -> None:
    """Check what can be checked before anything is loaded.

    Args:
        plan: What is to be written.
        weights: The file of weights that is read.

    Raises:
        ExportError: An argument does not fit the format, or the file cannot be written there.
    """
    endings = FORMATS[plan.to]
    for given, name in ((plan.size, '--static'), (plan.opset, '--opset')):
        if given is not None and plan.to not in GRAPHS:
            raise ExportError(f'{name} is for ONNX files, and --to {plan.to} is none; leave it out')
    if plan.half and plan.to == 'ncnn-ready-onnx':
        raise ExportError('--to ncnn-ready-onnx takes no --fp16: ncnn stores half precision by itself when it converts '
                          '(fp16=1 of pnnx, which is its default); leave out --fp16')
    if plan.images is not None and plan.size is not None:
        raise ExportError('--images has images of several sizes, and --static makes a file for one; leave one of them '
                          'out')
    if plan.images is not None and plan.to == 'ncnn-ready-onnx':
        raise ExportError('--images is measured with the exported file, and one for ncnn runs at one size here; leave '
                          '--images out')
    if plan.opset is not None:
        least, most = _OPSETS[plan.to]
        if not least <= plan.opset <= most:
            raise ExportError(f'--opset must be from {least} to {most} for --to {plan.to}, got {plan.opset}')
    out = plan.out
    if out.suffix.lower() not in endings:
        raise ExportError(f'--out {out}: a file of --to {plan.to} ends in {" or ".join(endings)}; write '
                          f'--out {out.with_suffix(endings[0])}')
    if not out.parent.is_dir():
        raise ExportError(f'--out {out}: there is no folder {out.parent}; make it: mkdir -p {out.parent}')
    if out.is_dir():
        raise ExportError(f'--out {out} is a folder; name a file in it')
    if out.exists() and weights.exists() and out.samefile(weights):
        raise ExportError(f'--out {out} is the file of --weights, which is never overwritten; give another name')
    if os.path.lexists(out) and not plan.force:
        raise ExportError(_EXISTS.format(out))


def export(student: Student, plan: Plan) -> Exported:
    """Write a student in a format; the file gets its name only after its images were found equal.

    Args:
        student: The student.
        plan: What is to be written.

    Returns:
        What was written.

    Raises:
        ExportError: The network cannot be written so.
        QualityError: The folder of images cannot be measured on.
        OSError: The file cannot be written.
    """
    if plan.size is None and plan.to != 'ncnn-ready-onnx':
        student(noise(student.channels, *SIZES[1]))  # a network for one size says so at once
    merged = merge(student) if plan.merges else None
    if merged is not None and not (plan.to in GRAPHS or merged.is_described):
        merged = None  # these files hold the weights of the class as it is
    written = student if merged is None else merged.student
    if plan.half:
        check_half(written, plan.to in GRAPHS)
    results: list[Exported] = []

    def write(part: Path) -> None:
        to = _for_ncnn if plan.to == 'ncnn-ready-onnx' else _onnx if plan.to == 'onnx' else _weights
        exported, call = to(written, student, plan, part)
        lost = None if plan.images is None else loss_on(plan.images, student, call)
        for path in exported.beside:
            if not path.exists():
                write_bytes(path, loader_text())
        results.append(replace(exported, merged=merged, lost=lost))

    try:
        write_alone(plan.out, write, replaces=plan.force)
    except FileExistsError as error:
        raise ExportError(_EXISTS.format(plan.out)) from error
    return results[0]


Step = tuple[Exported, Callable[[Tensor], Tensor]]


def _onnx(written: Student, original: Student, plan: Plan, part: Path) -> Step:
    graph = Graph(plan.opset or OPSET, plan.size, half=plan.half)
    try:
        check, session = export_onnx(written, original, graph, part)
    except ExportError:
        found = export_padded(written, original, graph, part)
        if found is None:
            raise
        check, session, multiple = found
        note = (f'the graph of {written.kind} is right at sides that are multiples of {multiple}: other images are '
                'padded to that in the graph by reflection, and differ from those of PyTorch without padding')
        return Exported(plan.out, replace(written, multiple=multiple), check, notes=(note, ), graph=graph), session
    return Exported(plan.out, written, check, graph=graph), session


def _weights(written: Student, original: Student, plan: Plan, part: Path) -> Step:
    beside: tuple[Path, ...] = ()
    if plan.to == 'spandrel':
        beside = _loader_beside(plan, written)
        check, call, notes = export_spandrel(written, original, part, plan.half, plan.out.suffix.lower())
    else:
        write = export_basicsr if plan.to == 'basicsr' else export_safetensors
        check, call, notes = write(written, original, part, plan.half)
    return Exported(plan.out, written, check, notes=notes, beside=beside), call


def _loader_beside(plan: Plan, student: Student) -> tuple[Path, ...]:
    """``spandrel_sr.py`` beside the export, if its network needs it."""
    path = plan.out.with_name(LOADER)
    if student.kind not in OWN:
        return ()
    if path.exists() and path.read_bytes() != loader_text():
        raise ExportError(f'{path} exists and is another file than the one that belongs to this export; move it away, '
                          'or give --out in another folder')
    return (path, )


def _for_ncnn(written: Student, original: Student, plan: Plan, part: Path) -> Step:
    if has_loop(written.net):
        raise ExportError(f'{written.kind} cannot run in ncnn: it runs a loop over the pixels, the operator Loop, '
                          'which ncnn lacks; take --to onnx')
    multiple = written.multiple
    height, width = plan.size or (-(-side // multiple) * multiple for side in ncnn_ready.SIZE)
    if height % multiple or width % multiple:
        good = 'x'.join(str(-(-side // multiple) * multiple) for side in (height, width))
        raise ExportError(f'--static must be multiples of {multiple} for {written.kind} in ncnn, which does not pad; '
                          f'write --static {good}')
    graph = Graph(plan.opset or ncnn_ready.OPSET, (height, width), padding=False, simple=True)
    check, session = export_onnx(written, original, graph, part)
    fit = ncnn_ready.examine(written, graph, part)
    note = f'in ncnn {written.kind} takes images of {height}×{width} only: the size is part of the graph'
    if fit.any_size:
        sides = f' whose sides are multiples of {multiple}' if multiple > 1 else ''
        note = f'in ncnn {written.kind} takes images of any size{sides}: nothing in the graph depends on it'
    return Exported(plan.out, written, check, notes=(note, ), graph=graph, operators=fit.operators), session
