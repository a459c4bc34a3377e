"""Is a step of MiPKD worth more than the sum of its parts? Measured in turn, in one process, on one CPU thread.

    python tests/benchmarks/step_parts.py options/compare_EDSR_x2_small.yml options/compare_EDSR_x2_depth.yml
    python tests/benchmarks/step_parts.py options/train_MiPKD_RCAN_x2.yml options/train_MiPKD_SwinIR_x2.yml --batch 1

The parts: a step of the plain student, the teacher's forward pass, forward and backward pass of the mixers, and of the
chain (each with another route every time). The rest is what nobody asked for: Python, masks, the optimizer of the
mixers. The ratio is the step over the sum of the parts, the median of the rounds; peak memory is that of a process
that takes nothing but such steps, over one that takes plain ones. The teacher has random weights, the batch is random.
"""

from __future__ import annotations

import argparse
import copy
import logging
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.archs import build_network
from basicsr.models import build_model
from mipkd_plugin import config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from helpers import as_parsed


def models_of(path: str, batch: int | None, patch: int) -> dict[str, Any]:
    """The plain model and the one with MiPKD, each with a batch."""
    opt = copy.deepcopy(dict(config.read_options(path)))
    methods = opt.pop('compare', {'methods': {}})['methods']
    opt['train'].setdefault('distill_opt', methods.get('mipkd'))
    opt['num_gpu'] = 0
    opt['datasets']['train']['gt_size'] = patch * opt['scale']
    size, scale = batch or opt['datasets']['train']['batch_size_per_gpu'], opt['scale']
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        opt['teacher'].update(weights=f'{folder}/teacher.pth', param_key='params')
        torch.save({'params': build_network(opt['teacher']['network']).state_dict()}, opt['teacher']['weights'])
        for name in ('plain', 'step'):
            own = copy.deepcopy(opt)
            if name == 'plain':
                own['model_type'] = own['model_type'].replace('SwinIRDistill', 'SwinIR').replace('Distill', 'SR')
                del own['teacher'], own['train']['distill_opt']
            found[name] = build_model(as_parsed(own, Path(folder)))
            found[name].feed_data({'lq': torch.rand(size, 3, patch, patch),
                                   'gt': torch.rand(size, 3, scale * patch, scale * patch)})
    return found


def parts_of(model: Any) -> dict[str, Callable[[], object]]:
    """The parts of a step by name."""
    loss, step = model.losses[0], model.nets.step(model.lq, model.gt, 1)
    own = [step.student.features[s].detach().requires_grad_() for s, _ in loss.pairs]
    others = [step.teacher.features[t] for _, t in loss.pairs]
    masks = [mixer.draw_mask(feature, loss._generator) for mixer, feature in zip(loss.mixers, own)]

    def mixers() -> None:
        terms = []
        for mixer, feature, other, mask in zip(loss.mixers, own, others, masks):
            latents = mixer(feature, other)
            terms += [mixer.teacher_error(mixer.mix(*latents, mask), other), mixer.teacher_error(latents[1], other)]
        torch.autograd.backward(torch.stack(terms).sum())

    latents = [[latent.detach().requires_grad_() for latent in mixer(feature, other)]
               for mixer, feature, other in zip(loss.mixers, own, others)]

    def chain() -> None:
        route = loss.block_mixer.draw_route(len(loss.pairs), loss._generator)
        image = loss.block_mixer(step, loss.pairs, loss.mixers, latents, masks, route)
        torch.autograd.backward((image - step.teacher.output).abs().mean())

    return {'teacher': lambda: model.nets.teacher(model.lq), 'mixers': mixers, 'chain': chain}


def milliseconds(run: Callable[[], object], times: int = 5) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - begin) / times * 1e3


def measure(path: str, args: argparse.Namespace) -> str:
    models = models_of(path, args.batch, args.patch)
    runs: dict[str, Callable[[], object]] = {
        name: lambda model=model: model.optimize_parameters(1) for name, model in models.items()}
    runs.update(parts_of(models['step']))
    rounds: list[dict[str, float]] = []
    for turn in range(args.rounds + 2):
        found = {name: milliseconds(run) for name, run in runs.items()}
        if turn >= 2:
            rounds.append(found)
    ratio = statistics.median(one['step'] / sum(one[name] for name in one if name != 'step') for one in rounds)
    middle = {name: statistics.median(one[name] for one in rounds) for name in runs}
    return ' | '.join([Path(path).stem, *(f'{middle[name]:.1f}' for name in runs), f'{ratio:.2f}',
                       f'{middle["step"] / middle["plain"]:.1f}'])


def peak(path: str, args: argparse.Namespace, name: str, results: Any) -> None:
    """Peak memory of a process that takes steps of one model only, in MB."""
    model = models_of(path, args.batch, args.patch)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for iteration in range(1, 4):
        model.optimize_parameters(iteration)
    results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def peaks(path: str, args: argparse.Namespace) -> str:
    found = []
    for name in ('plain', 'step'):
        results = multiprocessing.get_context('fork').SimpleQueue()
        child = multiprocessing.get_context('fork').Process(target=peak, args=(path, args, name, results))
        child.start()
        child.join()
        found.append(f'{results.get():.0f}')
    return ' | '.join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    parser.add_argument('--batch', type=int, help='images (default: of the option file)')
    parser.add_argument('--patch', type=int, default=16, help='side of the LR patch')
    parser.add_argument('--rounds', type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    names = ['pair', 'plain step, ms', 'MiPKD step, ms', 'teacher', 'mixers', 'chain', 'step / sum of the parts',
             'step / plain', 'plain step takes, MB', 'MiPKD step takes, MB']
    sys.stdout.write(f'| {" | ".join(names)} |\n|{"---|" * len(names)}\n')
    for path in args.option_files:
        memory = peaks(path, args)
        sys.stdout.write(f'| {measure(path, args)} | {memory} |\n')
        sys.stdout.flush()


if __name__ == '__main__':
    main()
