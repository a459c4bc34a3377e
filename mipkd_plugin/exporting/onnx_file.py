"""Write a network as an ONNX file."""

from __future__ import annotations

import copy
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.exporting.errors import ExportError, needed
from mipkd_plugin.exporting.student import Student, noise
from mipkd_plugin.exporting.traceable import AnySize, has_loop, traceable, without_unshuffle
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.replacing import replaced
from mipkd_plugin.version import __version__

OPSET = 17
INPUT, OUTPUT = 'input', 'output'
_AXES = {INPUT: {0: 'batch', 2: 'height', 3: 'width'}, OUTPUT: {0: 'batch', 2: 'height_out', 3: 'width_out'}}
_TRACED = (24, 40)
"""Height and width of the traced image: unequal, and neither is a usual ``img_size``."""
_OPERATOR = re.compile(r"operator '?([\w:]+(?: \w+)*?)'?(?:,| to ONNX)")


@dataclass(frozen=True)
class Graph:
    """How a network is written as a graph.

    Attributes:
        opset: Version of ONNX's operators.
        size: (Height, width) of a file for one size; None for any height, width and batch.
        padding: Whether the padding that the network needs is part of the graph.
        simple: Whether to use operations on maps only, for small engines.
        half: Whether the weights are in half precision; input and output stay float32.
    """

    opset: int = OPSET
    size: tuple[int, int] | None = None
    padding: bool = True
    simple: bool = False
    half: bool = False


EXPORTERS = ('trace', 'dynamo')
"""Ways of torch.onnx, the first one that works is taken: most networks are exported by the trace in under a second."""


def write_graph(student: Student, graph: Graph, path: Path, exporter: str) -> None:
    """Write a student as an ONNX file; the file is not checked.

    Args:
        student: The student.
        graph: What the file is for.
        path: The file.
        exporter: One of :data:`EXPORTERS`.

    Raises:
        ExportError: PyTorch cannot write the network.
    """
    onnx = needed('onnx', 'an ONNX file')
    net = copy.deepcopy(student.net)
    net = without_unshuffle(net) if graph.simple else net
    whole = AnySize(net, student.multiple if graph.padding else 1, student.scale).eval()
    images = noise(student.channels, *(graph.size or _TRACED), batch=1 if graph.size else 2)
    try:
        with _quiet(), traceable(net, graph.simple), torch.no_grad():
            model = (_trace if exporter == 'trace' else _dynamo)(onnx, whole, images, graph)
    except FOREIGN_ERRORS as error:
        raise ExportError(_cause(error)) from error
    if graph.half:
        model = _in_half(model)
    if graph.size:
        _fix_size(model, images, student.scale)
    _describe(onnx, model, student, graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())  # an error of the disk is an OSError then


def _trace(onnx: Any, net: nn.Module, images: Tensor, graph: Graph) -> Any:
    torch.onnx.register_custom_op_symbolic('aten::mT', _transposed, 9)  # type: ignore[attr-defined]
    fixed = graph.size is not None and not has_loop(net)  # PyTorch would unroll a loop of known length
    buffer: Any = io.BytesIO()
    torch.onnx.export(net, (images, ), buffer, dynamo=False, opset_version=graph.opset, input_names=[INPUT],
                      output_names=[OUTPUT], dynamic_axes=None if fixed else _AXES)
    return onnx.load_model_from_string(buffer.getvalue())


def _dynamo(onnx: Any, net: nn.Module, images: Tensor, graph: Graph) -> Any:
    needed('onnxscript', 'an ONNX file of this network')
    dynamic = None if graph.size else ({axis: torch.export.Dim(name) for axis, name in _AXES[INPUT].items()}, )
    program = torch.onnx.export(net, (images, ), dynamo=True, opset_version=graph.opset, input_names=[INPUT],
                                output_names=[OUTPUT], dynamic_shapes=dynamic, verbose=False, external_data=False)
    return None if program is None else program.model_proto


def _transposed(g: Any, x: Any) -> Any:
    """``x.mT``, which the trace does not know."""
    axes = list(range(x.type().dim()))
    return g.op('Transpose', x, perm_i=[*axes[:-2], axes[-1], axes[-2]])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings and logs from the terminal: what matters is checked by numbers."""
    silent = replaced(torch._C, {'_jit_onnx_log': lambda *_: None})  # it prints whole graphs to the terminal
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), silent:
        warnings.simplefilter('ignore')
        yield


def _cause(error: BaseException) -> str:
    operator = _OPERATOR.search(str(error))
    if operator is not None:
        return f'uses {operator[1]}, which has no counterpart in ONNX'
    return f'cannot be written by PyTorch: {reason(error)}'


def _in_half(model: Any) -> Any:
    """Weights and inner features in half precision."""
    float16 = needed('onnxruntime.transformers.float16', '--fp16 for an ONNX file')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of values too small for half precision; the check tells what they cost
        model = float16.convert_float_to_float16(model, keep_io_types=True)
    models = needed('onnxruntime.transformers.onnx_model', '--fp16 for an ONNX file')
    models.OnnxModel.graph_topological_sort(model.graph)
    return model


def _fix_size(model: Any, images: Tensor, scale: int) -> None:
    """Write the size of the images into input and output."""
    for value, factor in ((model.graph.input[0], 1), (model.graph.output[0], scale)):
        for axis, side in ((0, 1), (2, images.shape[2] * factor), (3, images.shape[3] * factor)):
            value.type.tensor_type.shape.dim[axis].dim_value = side


def _describe(onnx: Any, model: Any, student: Student, graph: Graph) -> None:
    """Put into the file what its user must know."""
    model.producer_name, model.producer_version = 'mipkd-plugin', __version__
    multiple = student.multiple
    model.doc_string = f'{student.kind}, x{student.scale} super-resolution'
    entries = {
        'name': student.name, 'architecture': student.kind, 'network_g': json.dumps(student.network),
        'scale': student.scale, 'mipkd_plugin': __version__,
        'input': f'float32, NCHW, {"RGB" if student.channels == 3 else f"{student.channels} channels"}, 0 to 1',
        'output': 'the same, not clipped', 'precision': 'float16' if graph.half else 'float32',
        'padding_multiple': multiple, 'padding': 'in the graph, by reflection' if graph.padding and multiple > 1 else
        f'sides must be multiples of {multiple}' if multiple > 1 else 'none needed'}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in entries.items()})


class Session:
    """An ONNX file in onnxruntime, on the CPU, called like a network.

    Args:
        path: The file.

    Raises:
        ExportError: onnxruntime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        runtime = needed('onnxruntime', 'the check of an ONNX file')
        self.version: str = runtime.__version__
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(path.read_bytes(), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # noqa: BLE001  (onnxruntime's own classes derive from Exception alone)
            raise ExportError(f'onnxruntime cannot load the file: {reason(error)}') from error

    def __call__(self, images: Tensor) -> Tensor:
        """Enlarge images.

        Args:
            images: (N, C, H, W).

        Returns:
            (N, C_out, sH, sW).

        Raises:
            ExportError: onnxruntime fails on them.
        """
        try:
            output = self.session.run(None, {INPUT: images.numpy()})[0]
        except Exception as error:  # noqa: BLE001
            size = '×'.join(map(str, images.shape))
            raise ExportError(f'onnxruntime fails on images of {size}: {reason(error)}') from error
        return torch.from_numpy(output)


def operators(path: Path) -> list[str]:
    """The operators of an ONNX file, each once, sorted."""
    return sorted({node.op_type for node in nodes(path)})


def nodes(path: Path) -> Sequence[Any]:
    """All nodes of an ONNX file, those inside of loops and branches too."""
    found: list[Any] = []
    graphs = [needed('onnx', 'an ONNX file').load(path).graph]
    while graphs:
        for node in graphs.pop().node:
            found.append(node)
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField('g')]
    return found
