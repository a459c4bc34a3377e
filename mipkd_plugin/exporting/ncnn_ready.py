"""ONNX files for ncnn: one size, operations on maps only, and every operator is one that ncnn has.

ncnn (https://github.com/Tencent/ncnn) reads ONNX through pnnx, or through its older onnx2ncnn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipkd_plugin.exporting.errors import ExportError, needed
from mipkd_plugin.exporting.onnx_file import Graph, nodes, operators, write_graph
from mipkd_plugin.exporting.student import Student

OPSET = 13
SIZE = (64, 64)
OPERATORS = frozenset((
    'Abs', 'Add', 'AveragePool', 'BatchNormalization', 'Ceil', 'Clip', 'Concat', 'Constant', 'Conv', 'ConvTranspose',
    'Cos', 'DepthToSpace', 'Div', 'Elu', 'Exp', 'Flatten', 'Floor', 'Gemm', 'GlobalAveragePool', 'GlobalMaxPool',
    'HardSigmoid', 'HardSwish', 'Identity', 'InstanceNormalization', 'LeakyRelu', 'Log', 'MatMul', 'Max', 'MaxPool',
    'Min', 'Mul', 'Neg', 'PRelu', 'Pad', 'Pow', 'Reciprocal', 'ReduceMax', 'ReduceMean', 'ReduceMin', 'ReduceSum',
    'Relu', 'Reshape', 'Resize', 'Selu', 'Sigmoid', 'Sin', 'Slice', 'Softmax', 'Softplus', 'Split', 'Sqrt', 'Squeeze',
    'Sub', 'Tan', 'Tanh', 'Transpose', 'Unsqueeze'))
"""Operators with a counterpart in both converters."""
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class Fit:
    """What ncnn will make of a file.

    Attributes:
        operators: The operators in it.
        any_size: Whether nothing in the graph depends on the size of the image.
    """

    operators: list[str]
    any_size: bool


def examine(student: Student, graph: Graph, path: Path) -> Fit:
    """Check a file against what ncnn has.

    Args:
        student: What was written.
        graph: How it was written.
        path: The file.

    Returns:
        What was found.

    Raises:
        ExportError: ncnn lacks an operator, or has fewer dimensions than are used.
    """
    found = operators(path)
    lacking = [name for name in found if name not in OPERATORS]
    if lacking:
        what = 'the operator' if len(lacking) == 1 else 'the operators'
        raise ExportError(f'{student.kind} cannot run in ncnn, which lacks {what} {", ".join(lacking)}; take --to onnx')
    deep = _deepest(path)
    if deep[1] > _MOST_DIMENSIONS:
        raise ExportError(f'{student.kind} cannot run in ncnn: its {deep[0]} makes a tensor of {deep[1]} dimensions, '
                          f'and ncnn has {_MOST_DIMENSIONS} at most, the batch among them; take --to onnx')
    return Fit(found, _is_same_at_another_size(student, graph, path))


def _deepest(path: Path) -> tuple[str, int]:
    """(Operator, dimensions) of the tensor with the most dimensions."""
    onnx = needed('onnx', 'an ONNX file')
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    dimensions = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    return max(((node.op_type, dimensions.get(name, 0)) for node in model.graph.node for name in node.output),
               key=lambda pair: pair[1])


def _is_same_at_another_size(student: Student, graph: Graph, path: Path) -> bool:
    """Whether the graph of another size has the same nodes, constants among them."""
    height, width = graph.size or SIZE
    step = max(student.multiple, 8)
    other = path.with_name(f'{path.name}.size')
    try:
        write_graph(student, Graph(graph.opset, (height + step, width + 2 * step), graph.padding, graph.simple),
                    other, 'trace')
        return _content(path) == _content(other)
    except ExportError:
        return False
    finally:
        other.unlink(missing_ok=True)


def _content(path: Path) -> list[tuple[Any, ...]]:
    return [(node.op_type, *node.input, *node.output, *(a.SerializeToString() for a in node.attribute))
            for node in nodes(path)]
