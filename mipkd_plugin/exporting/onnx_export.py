"""Export to ONNX, checked with onnxruntime against PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mipkd_plugin.exporting.errors import ExportError
from mipkd_plugin.exporting.onnx_file import EXPORTERS, Graph, Session, write_graph
from mipkd_plugin.exporting.student import Difference, Student, difference, noise

LIMIT = 1e-4
SIZES = ((24, 24), (19, 29), (33, 17))
BATCHES = (1, 2)
_MULTIPLES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Check:
    """What a file was checked against, and what came out.

    Attributes:
        against: In words.
        sizes: Sizes (height, width) of the images.
        batches: Numbers of images.
        difference: From the student in PyTorch, in float32.
    """

    against: str
    sizes: Sequence[tuple[int, int]]
    batches: Sequence[int]
    difference: Difference


def images_for(student: Student, sizes: Sequence[tuple[int, int]], batches: Sequence[int]) -> list[Tensor]:
    """Random images of all sizes and batches."""
    return [noise(student.channels, *size, batch=batch, seed=number) for number, size in enumerate(sizes)
            for batch in batches]


def export_onnx(student: Student, original: Student, graph: Graph, path: Path) -> tuple[Check, Session]:
    """Write an ONNX file in the first way that gives the images of PyTorch at all sizes.

    Args:
        student: What is written.
        original: What the file must equal: the student before its layers were merged.
        graph: What the file is for.
        path: The file.

    Returns:
        The check, and the file in onnxruntime.

    Raises:
        ExportError: No way leads to equal images.
    """
    failures: list[str] = []
    for exporter, multiple in _ways(student, graph):
        if multiple > student.multiple and failures[0].startswith(('uses', 'cannot')):
            continue  # only a graph that is wrong at some sizes can be helped by padding
        try:
            write_graph(replace(student, multiple=multiple), graph, path, exporter)
            return check_onnx(path, original, graph)
        except ExportError as error:
            failures.append(str(error))
    kept = next((text for text in failures if 'has no counterpart' in text), failures[0])
    if 'pip install' in kept:
        raise ExportError(kept)
    remedy = ('' if graph.size else '; give --static HEIGHTxWIDTH for a file of one size, or take --to safetensors')
    raise ExportError(f'{student.kind} cannot be exported to ONNX: it {kept}{remedy}' if kept.startswith(
        ('uses', 'cannot')) else f'{student.kind} cannot be exported to ONNX: {kept}{remedy}')


def _ways(student: Student, graph: Graph) -> Iterator[tuple[str, int]]:
    """(Exporter, multiple that the graph pads to) in turn; a network may pad by itself, in code that is not kept."""
    first, *others = EXPORTERS
    yield first, student.multiple
    if student.multiple == 1 and graph.size is None and graph.padding:
        yield from ((first, multiple) for multiple in _MULTIPLES)
    yield from ((exporter, student.multiple) for exporter in others)


def export_padded(student: Student, original: Student, graph: Graph, path: Path) -> tuple[Check, Session, int] | None:
    """Write an ONNX file that pads images to a multiple for which the graph is right at all sizes.

    Some networks, such as SAFMN, take any size in PyTorch, by operations on uneven windows that ONNX lacks.

    Args:
        student: What is written; it needs no padding in PyTorch.
        original: What the file must equal, on images of that multiple.
        graph: What the file is for.
        path: The file.

    Returns:
        The check, the file in onnxruntime, and the multiple; None if there is none.
    """
    for multiple in _MULTIPLES if student.multiple == 1 and graph.size is None else ():
        try:
            write_graph(replace(student, multiple=multiple), graph, path, 'trace')
            return *check_onnx(path, replace(original, multiple=multiple), graph), multiple
        except ExportError:
            continue
    return None


def check_onnx(path: Path, student: Student, graph: Graph) -> tuple[Check, Session]:
    """Run an ONNX file and PyTorch on the same images.

    Args:
        path: The file.
        student: The student in PyTorch.
        graph: What the file is for.

    Returns:
        The check, and the file in onnxruntime.

    Raises:
        ExportError: The file cannot be run, or gives other images.
    """
    session = Session(path)
    sizes, batches = (SIZES, BATCHES) if graph.size is None else ([graph.size], (1, ))
    if not graph.padding:
        down = student.multiple
        sizes = [(height // down * down, width // down * down) for height, width in sizes]
    against = f'PyTorch, with onnxruntime {session.version}'
    found = Check(against, sizes, batches, Difference(0, 0, 0))
    pairs = []
    for images in images_for(student, sizes, batches):
        output, right = session(images), student(images)
        if output.shape != right.shape:
            raise ExportError(f'at {images.shape[2]}×{images.shape[3]} the file gives {tuple(output.shape)}, and '
                              f'PyTorch {tuple(right.shape)}')
        pairs.append((output, right))
    found = replace(found, difference=difference(pairs))
    require_equal(found.difference, graph.half, 'the file')
    return found, session


def require_equal(apart: Difference, half: bool, what: str) -> None:
    """Refuse a file whose images are not those of PyTorch.

    Args:
        apart: How far they are apart.
        half: Whether the file is in half precision, which rounds.
        what: What gives the images.

    Raises:
        ExportError: They are too far apart.
    """
    if half and not apart.within(float('inf')):
        raise ExportError(f'{what} gives NaN or infinity: numbers inside of the network are too large for half '
                          'precision; leave out --fp16')
    if not half and not apart.within(LIMIT):
        raise ExportError(f'{what} gives other images than PyTorch: the largest difference is {apart.largest:.1e}, '
                          f'and {LIMIT:.0e} is allowed')
