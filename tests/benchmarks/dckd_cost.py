"""What DCKD costs over logits-KD, by encoder: time of a step, and the memory that steps take.

    python tests/benchmarks/dckd_cost.py options/compare_EDSR_x2_small.yml

Weights of teacher and encoders are random, the encoders of their published size. Memory is that of a process after
three steps over what it had before the model was built, with the weights of the encoder.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from torchvision.models.vgg import cfgs, make_layers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('MALLOC_MMAP_THRESHOLD_', '65536')  # freed memory goes back at once, and leaves no holes

import mipkd_plugin  # noqa: E402, F401  (repairs BasicSR before basicsr is imported)
from basicsr.archs import build_network  # noqa: E402
from losses.test_vqgan import tiny_vqgan  # noqa: E402
from mipkd_plugin import config  # noqa: E402
from mipkd_plugin.compare.step_times import Bench, measure, quietly  # noqa: E402

LOGITS = {'type': 'LogitsKDLoss'}
F16 = (128, 128, 256, 256, 512)
DCKD: dict[str, dict[str, Any]] = {
    'encoder: teacher, teacher_input: lr': {'encoder': 'teacher', 'taps': 3, 'teacher_input': 'lr'},
    'encoder: teacher, teacher_input: hr': {'encoder': 'teacher', 'taps': 3, 'teacher_input': 'hr'},
    'encoder: vgg19': {'encoder': 'vgg19', 'weights': 'vgg19.pth'},
    'encoder: vqgan, with its codebook': {'encoder': 'vqgan', 'weights': 'last.ckpt'},
}


def runs(file: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Name → options; the first one is logits-KD."""
    opt = config.read_options(file)
    teacher = {'network': opt['teacher']['network'], 'weights': str(folder / 'teacher.pth'), 'param_key': 'params'}
    base = {name: value for name, value in opt.items() if name not in ('compare', 'teacher')}
    found = {}
    for name, own in {'logits': None, **DCKD}.items():
        weights = {'weights': str(folder / own['weights'])} if own and 'weights' in own else {}
        losses = [*([{'type': 'DCKDLoss', 'history_every': 20, **own, **weights}] if own else []), LOGITS]
        found[name] = copy.deepcopy({**base, 'teacher': teacher, 'train': {**base['train'], 'distill_opt': losses}})
    return found


def memory(options: dict[str, Any]) -> int:
    """Bytes of the largest resident set in three steps, over what this process had before."""
    process = psutil.Process()
    before = process.memory_info().rss
    with quietly(1), tempfile.TemporaryDirectory() as folder:
        Bench(options, folder).run(3)
    return peak() - before


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(file: str, folder: Path, name: str | None = None) -> None:
    named = runs(file, folder)
    if name is not None:
        sys.stdout.write(str(memory(named[name])))
        return
    opt = config.read_options(file)
    torch.save({'params': build_network(copy.deepcopy(opt['teacher']['network'])).state_dict()}, folder / 'teacher.pth')
    torch.save({f'features.{key}': value for key, value in make_layers(cfgs['E']).state_dict().items()},
               folder / 'vgg19.pth')
    torch.save({'state_dict': tiny_vqgan(F16, 1024)}, folder / 'last.ckpt')
    first = None
    for run, options in named.items():
        result = subprocess.run([sys.executable, __file__, file, str(folder), run], capture_output=True, text=True,
                                check=True)
        taken = int(result.stdout)
        first = taken if first is None else first
        ratio = measure(named['logits'], options).distilling
        sys.stdout.write(f'{run:40} {ratio:7.2f} × the step of logits {(taken - first) / 1e6:+9.0f} MB\n')
        sys.stdout.flush()


if __name__ == '__main__':
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    else:
        with tempfile.TemporaryDirectory() as name:
            main(sys.argv[1], Path(name))
