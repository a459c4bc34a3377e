"""Files of weights: safetensors, for plain BasicSR, and for spandrel. Each is read again, and its images compared."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.compat.repositories import installed_basicsr
from mipkd_plugin.exporting.errors import ExportError, needed
from mipkd_plugin.exporting.layouts import OWN, spandrel_state
from mipkd_plugin.exporting.onnx_export import BATCHES, SIZES, Check, images_for, require_equal
from mipkd_plugin.exporting.student import Student, difference
from mipkd_plugin.recognition.recognized import build
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.weight_files import read_tensors
from mipkd_plugin.version import __version__

LOADER = 'spandrel_sr.py'
"""The file that tells spandrel of networks that it lacks; it is written beside the export."""


Written = tuple[Check, Callable[[Tensor], Tensor], tuple[str, ...]]
"""The check, the file as something to call, and what else there is to say."""


def export_basicsr(student: Student, original: Student, path: Path, half: bool) -> Written:
    """Write ``{params: …}``, as BasicSR's ``pretrain_network_g`` wants it; see :func:`export_spandrel`."""
    _save(_stored(student.net.state_dict(), half), path)
    notes = () if _is_basicsrs(student) else (
        f'plain BasicSR has no {student.kind}: this file is for a BasicSR that knows it', )
    return *_reloaded(student, original, lambda: read_tensors(path)['params'], half, 'BasicSR, strictly'), notes


def export_safetensors(student: Student, original: Student, path: Path, half: bool) -> Written:
    """Write safetensors with the network in the file's metadata; see :func:`export_spandrel`."""
    files = needed('safetensors.torch', 'a file of safetensors')
    _save_safetensors(_stored(student.net.state_dict(), half), path, student, half)
    return *_reloaded(student, original, lambda: files.load(path.read_bytes()), half, 'safetensors, strictly'), ()


def export_spandrel(student: Student, original: Student, path: Path, half: bool, suffix: str) -> Written:
    """Write the weights in the layout that spandrel knows.

    Args:
        student: What is written.
        original: What the file must equal.
        path: The file; any ending.
        half: Whether to write half precision.
        suffix: Ending that the file will have: ``.safetensors`` or ``.pth``.

    Returns:
        The check, the file as something to call, and what else there is to say.

    Raises:
        ExportError: spandrel cannot load it with equal output.
    """
    spandrel = needed('spandrel', '--to spandrel')
    state, notes = spandrel_state(student)
    if suffix == '.safetensors':
        files = needed('safetensors.torch', 'a file of safetensors')
        _save_safetensors(_stored(state, half), path, student, half)
        content = files.load(path.read_bytes())
    else:
        _save(_stored(state, half), path)
        content = read_tensors(path)['params']
    registry = spandrel.MAIN_REGISTRY.copy()
    if student.kind in OWN:
        importlib.import_module('mipkd_plugin.exporting.spandrel_sr').register(registry)
    try:
        loaded = spandrel.ModelLoader(registry=registry).load_from_state_dict(content)
        net = replace(original, net=loaded.model.eval())
        outputs = [(net(images), original(images)) for images in images_for(original, SIZES, BATCHES)]
    except spandrel.UnsupportedModelError as error:
        raise ExportError(f'spandrel does not know {student.kind}; take --to onnx or --to safetensors') from error
    except FOREIGN_ERRORS as error:
        raise ExportError(f"spandrel's class of {student.kind} does not take these weights: {reason(error)}; take "
                          '--to onnx or --to safetensors') from error
    if any(output.shape != right.shape for output, right in outputs):
        raise ExportError(f'spandrel takes these weights for {loaded.architecture.name} x{loaded.scale}; take '
                          '--to onnx or --to safetensors')
    check = Check(f'PyTorch, with spandrel ({loaded.architecture.name} x{loaded.scale})', SIZES, BATCHES,
                  difference(outputs))
    if not half and not check.difference.within(1e-4):
        raise ExportError(f"spandrel's class of {student.kind} gives other images: the largest difference is "
                          f'{check.difference.largest:.1e}; an option of the network is fixed there. Take --to onnx or '
                          '--to safetensors')
    require_equal(check.difference, half, 'spandrel')
    pads = loaded.size_requirements.multiple_of
    if pads != student.multiple and pads > 1:
        notes += (f"spandrel's own call pads images to multiples of {pads}: at other sizes its images differ from "
                  'those of the network alone, mostly near the border', )
    return check, net, notes


def loader_text() -> bytes:
    """The content of ``spandrel_sr.py``: its import tells spandrel, while that of our own module changes nothing."""
    return Path(__file__).with_name(LOADER).read_bytes() + b'\n\nregister()\n'


def _reloaded(student: Student, original: Student, load: Callable[[], Mapping[str, Tensor]], half: bool,
              by: str) -> tuple[Check, Callable[[Tensor], Tensor]]:
    net = build(student.network)
    net.load_state_dict(load())
    for hook in student.net._forward_hooks.values():  # it may choose the image among several outputs
        net.register_forward_hook(hook)
    again = replace(student, net=net.eval())
    check = Check(f'PyTorch, loaded by {by}', SIZES, BATCHES, difference(
        (again(images), original(images)) for images in images_for(original, SIZES, BATCHES)))
    require_equal(check.difference, half, 'the file')
    return check, again


def _stored(state: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    """Tensors of their own, float32 or float16."""
    kind = torch.float16 if half else torch.float32
    return {name: (tensor.to(kind) if tensor.is_floating_point() else tensor).detach().contiguous().clone()
            for name, tensor in state.items()}


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    buffer = io.BytesIO()  # an error of the disk is an OSError then
    torch.save({'params': dict(state)}, buffer)
    path.write_bytes(buffer.getvalue())


def _save_safetensors(state: Mapping[str, Tensor], path: Path, student: Student, half: bool) -> None:
    entries: dict[str, Any] = {
        'format': 'pt', 'name': student.name, 'architecture': student.kind,
        'network_g': json.dumps(student.network), 'scale': student.scale, 'padding_multiple': student.multiple,
        'precision': 'float16' if half else 'float32', 'input': 'NCHW, RGB, 0 to 1', 'mipkd_plugin': __version__}
    files = needed('safetensors.torch', 'a file of safetensors')
    path.write_bytes(files.save(dict(state), {key: str(value) for key, value in entries.items()}))


def _is_basicsrs(student: Student) -> bool:
    """Whether the network is one of BasicSR itself, not of a repository's copy."""
    module = importlib.import_module(type(student.net).__module__)
    root = installed_basicsr()  # None where the imported one is the installed one
    return module.__name__.startswith('basicsr.') and (
        root is None or Path(str(module.__file__)).is_relative_to(root))
