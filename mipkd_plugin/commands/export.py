"""``mipkd export``: write a trained student as a file that runs elsewhere."""

from __future__ import annotations

import argparse
import errno
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mipkd_plugin.commands.shared import add_option_file
from mipkd_plugin.commands.shared.networks import load_network
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.words import counted

if TYPE_CHECKING:
    from mipkd_plugin.exporting import Exported, Plan, Student

HELP = 'write a student as ONNX, safetensors, or for spandrel, plain BasicSR or ncnn; checked against PyTorch'
_FULL = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))
_FORMATS = ('onnx', 'safetensors', 'spandrel', 'basicsr', 'ncnn-ready-onnx')
_ENDINGS = {'onnx': '.onnx', 'ncnn-ready-onnx': '_ncnn.onnx', 'safetensors': '.safetensors',
            'spandrel': '_spandrel.safetensors', 'basicsr': '_basicsr.pth'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd export``."""
    add = parser.add_argument
    add('--weights', type=Path, required=True, metavar='FILE', help='weights of a student, such as net_g_latest.pth')
    add('--to', required=True, choices=_FORMATS, help='onnx: any height, width and batch. safetensors: weights with '
        'their network as metadata. spandrel: what its ModelLoader reads. basicsr: for pretrain_network_g of a plain '
        'BasicSR. ncnn-ready-onnx: an ONNX file that ncnn converts')
    add('--out', type=Path, metavar='FILE', help='file to write (default: the name of the weights, in this folder)')
    add('--fp16', action='store_true', help='half precision: half the size; the images change a little, and the '
        'command says by how much')
    add('--images', type=Path, metavar='DIR', help='high-resolution images, to measure the PSNR that the file loses')
    add('--static', metavar='HxW', help='an ONNX file for low-resolution images of one size only')
    add('--opset', type=int, metavar='N', help="version of ONNX's operators (default: 17; for ncnn 13)")
    add('--no-merge', action='store_true', help='leave re-parameterised layers (ECBSR, SPAN) as they are')
    add('--force', action='store_true', help='replace the file if it exists')
    add_option_file(parser, required=False, opt='option file that has the network as network_g (default: it is '
                    'recognized from the file)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd export``."""
    out = args.out or Path(f'{args.weights.stem}{_ENDINGS[args.to]}')
    _look_at(args)
    loaded = load_network(args, args.weights)
    from mipkd_plugin import exporting

    plan = exporting.Plan(args.to, out, args.fp16, None if args.static is None else exporting.size_of(args.static),
                          args.opset, not args.no_merge, args.force, args.images)
    exporting.check_plan(plan, args.weights.expanduser())
    student = exporting.student_of(loaded.net, loaded.network, args.weights.stem)
    if student.scale != loaded.scale:
        raise UsageError(f'{args.opt or args.weights}: scale is {loaded.scale}, and {student.kind} enlarges by '
                         f'{student.scale}; write scale: {student.scale}')
    try:
        exported = exporting.export(student, plan)
    except OSError as error:
        raise UsageError(f'{out} cannot be written: {error.strerror or error}; '
                         + ('free some space, or ' if error.errno in _FULL else '')
                         + 'give --out in another folder') from error
    _show(student, exported, plan)
    return 0


def _look_at(args: argparse.Namespace) -> None:
    """Find wrong arguments before anything heavy is loaded."""
    if args.images is not None and not args.images.is_dir():
        raise UsageError(f'--images {args.images}: there is no such folder; name a folder of high-resolution images')


def _show(student: Student, exported: Exported, plan: Plan) -> None:
    """Print what was written, how it was checked, and how it is loaded."""
    from mipkd_plugin.utils.yaml_text import flow

    merged, check, apart = exported.merged, exported.check, exported.check.difference
    print(f'{student.kind} x{student.scale}, {student.parameters:,d} parameters')
    if merged is not None:
        print(f'merged: {merged.blocks} {merged.kind} into plain convolutions, {merged.student.parameters:,d} '
              f'parameters are left; largest difference {merged.difference.largest:.1e}'
              + (f'; {merged.kept} blocks were left, their numbers differ' if merged.kept else ''))
        if merged.is_described:
            print(f'the merged network is\n  network_g: {flow(merged.student.network)}')
    print(f'wrote {exported.path}, {exported.path.stat().st_size / 1e6:.2f} MB{_details(exported, plan)}')
    for path in exported.beside:
        print(f'  and {path}, which tells spandrel of {exported.student.kind}')
    sizes = ', '.join(f'{height}×{width}' for height, width in check.sizes)
    print(f'checked against {check.against}, at {sizes}, batch {" and ".join(map(str, check.batches))}: largest '
          f'difference {apart.largest:.1e}, mean {apart.mean:.1e} (images from 0 to 1)')
    if exported.lost is not None:
        lost = exported.lost
        print(f'PSNR on {counted(lost.images, "image")} of {plan.images}: {lost.before:.4f} dB before, '
              f'{lost.after:.4f} dB after: {lost.before - lost.after:.4f} dB lost, most on {lost.where}: '
              f'{lost.worst:.4f} dB')
    if exported.operators:
        print(f'operators: {", ".join(exported.operators)}; ncnn has all of them')
    for note in exported.notes:
        print(f'note: {note}')
    print('in the option file of a BasicSR:' if plan.to == 'basicsr' else 'load it elsewhere:',
          *_lines(exported, plan), sep='\n  ')


def _details(exported: Exported, plan: Plan) -> str:
    parts = ['half precision' if plan.half else 'float32']
    graph = exported.graph
    if graph is not None:
        parts += [f'opset {graph.opset}', 'any height, width and batch' if graph.size is None else
                  f'height {graph.size[0]}, width {graph.size[1]}, batch 1']
        multiple = exported.student.multiple
        if multiple > 1:
            parts.append(f'padding to multiples of {multiple} is in the graph' if graph.padding else
                         f'sides must be multiples of {multiple}')
    return f' ({"; ".join(parts)})'


def _lines(exported: Exported, plan: Plan) -> list[str]:
    """The lines that load a file elsewhere."""
    from mipkd_plugin.utils.yaml_text import flow

    name, student = exported.path.name, exported.student
    arguments = ', '.join(f'{key}={value!r}' for key, value in student.network.items() if key != 'type')
    if plan.to == 'onnx':
        return [f"session = onnxruntime.InferenceSession({name!r})",
                f"image = session.run(None, {{'input': lq}})[0]  # lq: float32 array (N, {student.channels}, H, W), "
                f'{"RGB, " if student.channels == 3 else ""}0 to 1']
    if plan.to == 'ncnn-ready-onnx':
        size = exported.graph.size if exported.graph is not None else None
        shape = ','.join(map(str, (1, student.channels, *(size or ()))))
        base = exported.path.stem
        return [f"pnnx {shlex.quote(name)} 'inputshape=[{shape}]'  # makes {base}.ncnn.param and {base}.ncnn.bin",
                f"net = ncnn.Net(); net.load_param({f'{base}.ncnn.param'!r}); "
                f"net.load_model({f'{base}.ncnn.bin'!r})  # in0, out0"]
    if plan.to == 'spandrel':
        first = 'import spandrel_sr; ' if exported.beside else ''
        return [f"{first}net = spandrel.ModelLoader().load_from_file({name!r})",
                f'image = net(lq)  # lq: (1, {student.channels}, H, W), 0 to 1; spandrel clips the image to 0 to 1']
    if plan.to == 'basicsr':
        return [f'network_g: {flow(student.network)}',
                f'path: {flow({"pretrain_network_g": name, "param_key_g": "params", "strict_load_g": True})}']
    return [f'net = {type(student.net).__name__}({arguments}).eval()  # from {type(student.net).__module__}',
            f"net.load_state_dict(safetensors.torch.load_file({name!r}))"]
