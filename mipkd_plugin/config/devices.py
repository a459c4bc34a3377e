"""GPUs and launchers: what an option file asks for, and what the machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from mipkd_plugin.config.problems import Context, Problem
from mipkd_plugin.utils.launcher import missing_variables


def check_gpus(ctx: Context) -> None:
    """Check ``num_gpu`` against the machine and the launcher."""
    gpus, visible = ctx.opt.get('num_gpu'), torch.cuda.device_count()
    missing = missing_variables(ctx.launcher)
    if missing:
        program = {'pytorch': 'torchrun', 'slurm': 'srun'}[ctx.launcher]
        ctx.add(f'--launcher {ctx.launcher}', f'was given, but {program} did not start this process: {missing[0]} is '
                f'{"not a number" if missing[0] in os.environ else "not set"}',
                f'run: {torchrun_line(ctx.opt, max(visible, 2))}')
    elif ctx.launcher == 'slurm' and visible == 0:
        ctx.add('--launcher slurm', 'BasicSR needs a CUDA device for it, and PyTorch finds none here',
                f'run: {torchrun_line(ctx.opt, 2)}')
    elif ctx.launcher != 'none' and visible and gpus == 0:
        ctx.add('num_gpu', 'is 0, but under a launcher BasicSR uses the GPUs of this machine all the same',
                f'hide them: CUDA_VISIBLE_DEVICES= {torchrun_line(ctx.opt, 2)}')
    if ctx.inherits('VideoBaseModel') and visible == 0 and ctx.opt.get('val') is not None:
        ctx.add('model_type', f'{ctx.opt["model_type"]} of BasicSR validates on a GPU whatever num_gpu says, and '
                'PyTorch finds no CUDA device here', 'run it on a machine with a GPU')
    if not isinstance(gpus, int) and gpus != 'auto':
        return
    if ctx.distills and ctx.is_train and ctx.launcher == 'none' and (visible if gpus == 'auto' else gpus) > 1:
        ctx.problems.append(launcher_problem(ctx.opt))
    if gpus != 'auto' and gpus > 0 and visible == 0:
        ctx.add('num_gpu', f'is {gpus}, but PyTorch finds no CUDA device here', 'write num_gpu: 0, or auto',
                {'num_gpu': 0})


def launcher_problem(opt: Mapping[str, Any]) -> Problem:
    """The problem with several GPUs and no launcher: ``nn.DataParallel``."""
    gpus = torch.cuda.device_count() if opt.get('num_gpu') == 'auto' else opt.get('num_gpu')
    return Problem('num_gpu', f'{gpus} GPUs without a launcher use nn.DataParallel, whose threads mix up the '
                   'tapped features',
                   f'run: {torchrun_line(opt, gpus or 2)}, or write num_gpu: 1', fix={'num_gpu': 1})


def torchrun_line(opt: Mapping[str, Any], processes: int) -> str:
    """Command line that trains with one process per GPU."""
    source = getattr(opt, 'source', None) or 'FILE.yml'
    return f'torchrun --nproc_per_node={processes} -m mipkd_plugin train -opt {source} --launcher pytorch'
