"""Checkpoints that cannot be resumed as asked, and folders that a run cannot write to."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from helpers import tiny_options, write_image_pairs
from training import train, write_options

from faults.harness import BadInput
from mipkd_plugin.config.remedies import REMOVE, remedied

Spoil = Callable[[Path], object]
RESUME, RUN = ('--auto_resume', ), Path('experiments/tiny')
STATE, MODELS = RUN / 'training_states', RUN / 'models'
EXACT = {'train.exact_resume': True}
PLAIN = {'model_type': 'SRModel', 'teacher': REMOVE, 'train.distill_opt': REMOVE}


@functools.cache
def _experiments(entries: tuple[tuple[str, Any], ...]) -> Path:
    """The experiments of a tiny run that saved at iterations 2 and 4, trained once for all cases."""
    folder = Path(tempfile.mkdtemp(prefix='mipkd_resume_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    opt = remedied(tiny_options(write_image_pairs(folder)), {
        'val': REMOVE, 'logger.use_tb_logger': False, **dict(entries)})
    before = Path.cwd()
    os.chdir(folder)
    try:
        if train(write_options(opt, folder / 'options.yml')) != 0:
            raise RuntimeError('the run before has failed')
    finally:
        os.chdir(before)
    return folder / 'experiments'


def after_training(then: Spoil = lambda folder: None, entries: Mapping[str, Any] = EXACT) -> Spoil:
    """A run has been trained, and then something happens to its files."""
    def spoil(folder: Path) -> None:
        shutil.copytree(_experiments(tuple(entries.items())), folder / 'experiments')
        then(folder)

    return spoil


def cut(*names: str) -> Spoil:
    """Cut files to their half."""
    def then(folder: Path) -> None:
        for name in names:
            path = folder / RUN / name
            path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])

    return then


def saved(name: str, change: Callable[[Any], Any]) -> Spoil:
    """Change the content of a file of the only checkpoint, whose training state does not say what it was."""
    def then(folder: Path) -> None:
        for path in (folder / STATE).iterdir():
            path.unlink() if path.stem == '2' else edit(path, lambda state: state.pop('mipkd') and state)
        edit(folder / RUN / name, change)

    return then


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    torch.save(change(torch.load(path, weights_only=True)), path)


def renamed(folder: Path) -> None:
    (folder / RUN).rename(folder / 'experiments/earlier')


def other_images(folder: Path) -> None:
    for name in ('HR', 'LRbicx2'):
        image = cv2.imread(str(folder / name / '0.png'))
        cv2.imwrite(str(folder / name / '9.png'), image)


def changed(name: str, entries: Mapping[str, Any], *says: str, exact: bool = False, then: Spoil = lambda folder: None,
            where: str = '') -> BadInput:
    """A resume with other entries in the option file."""
    before = EXACT if exact else {}
    return BadInput(name, where or next(iter(entries)), ('4.state (old -> new): ', *says), {**before, **entries},
                    after_training(then, before), arguments=RESUME)


def broken(name: str, where: str, says: tuple[str, ...], then: Spoil, entries: Mapping[str, Any] = EXACT,
           **more: Any) -> BadInput:
    """A resume from files that are not as they should be."""
    return BadInput(name, where, says, entries, after_training(then), **{'arguments': RESUME, **more})


def a_file(name: str) -> Spoil:
    return lambda folder: (folder / name).write_text('')


HYPERPARAMETERS = [
    changed('another lr on resume', {'train.optim_g.lr': 0.0001}, 'train.optim_g.lr 0.001 -> 0.0001',
            'write train.resume_hyperparameters: new to go on with the new values, or keep to go on with the old ones'),
    changed('another weight decay on resume', {'train.optim_g.weight_decay': 0.1}, 'weight_decay 0 -> 0.1'),
    changed('other betas on resume', {'train.optim_g.betas': [0.5, 0.99]}, 'betas [0.9, 0.99] -> [0.5, 0.99]'),
    changed('no betas on resume', {'train.optim_g.betas': REMOVE}, 'betas [0.9, 0.99] -> [0.9, 0.999]'),
    changed('another eps on resume', {'train.optim_g.eps': 1e-4}, 'eps 1e-08 -> 0.0001'),
    changed('other milestones on resume', {'train.scheduler.milestones': [3, 4]}, 'milestones [3] -> [3, 4]'),
    changed('another gamma on resume', {'train.scheduler.gamma': 0.1}, 'gamma 0.5 -> 0.1'),
    changed('another scheduler on resume', {'train.scheduler': {
        'type': 'CosineAnnealingRestartLR', 'periods': [10]}}, 'type MultiStepLR -> CosineAnnealingRestartLR',
        where='train.scheduler.type'),
    changed('another warm-up on resume', {'train.warmup_iter': 8}, 'warmup_iter -1 -> 8'),
    changed('another average on resume', {'train.ema_decay': 0.99}, 'ema_decay 0.9 -> 0.99'),
    changed('two changes on resume', {'train.ema_decay': 0.99, 'train.optim_g.lr': 0.01},
            'train.optim_g.lr 0.001 -> 0.01, train.ema_decay 0.9 -> 0.99', where='train.optim_g.lr'),
    changed('another lr for a checkpoint of BasicSR', {'train.optim_g.lr': 0.0001, 'train.ema_decay': 0.5},
            'train.optim_g.lr 0.001 -> 0.0001',
            then=lambda folder: edit(folder / STATE / '4.state', lambda state: state.pop('mipkd') and state)),
]
NOT_EXACT = [
    changed('another batch size in an exact resume', {'datasets.train.batch_size_per_gpu': 4},
            'batch_size_per_gpu 2 -> 4', 'cannot end like one that was not interrupted', exact=True),
    changed('another gt_size in an exact resume', {'datasets.train.gt_size': 20}, 'gt_size 16 -> 20', exact=True),
    changed('other images in an exact resume', {}, '4 files, ', ' -> 5 files, ', exact=True, then=other_images,
            where='datasets.train.dataroot_gt'),
    changed('another loss weight in an exact resume', {'train.pixel_opt.loss_weight': 2.0}, 'loss_weight 1.0 -> 2.0',
            exact=True),
    changed('another distillation weight in an exact resume', {'train.distill_opt.loss_weight': 2.0},
            'train.distill_opt.loss_weight', ' -> 2.0', exact=True),
    changed('workers in an exact resume', {'datasets.train.num_worker_per_gpu': 1}, 'num_worker_per_gpu 0 -> 1',
            exact=True),
    changed('another seed in an exact resume', {'manual_seed': 1}, 'manual_seed 0 -> 1', exact=True),
]
FILES = [
    BadInput('random numbers that were not wanted before', '--auto_resume', ('4.state has no random_4.pth',
             'write exact_resume: false, or restore the file'), EXACT, after_training(entries={}), arguments=RESUME),
    broken('random numbers that are none', '--auto_resume', ('random_4.pth holds no random numbers: it has no',
           'restore the file, or remove train.exact_resume'), saved('models/random_4.pth', lambda state: {})),
    broken('random numbers of a wrong type', '--auto_resume', ("its 'torch' has a wrong type", ),
           saved('models/random_4.pth', lambda state: {**state, 'torch': [1, 2]})),
    broken('random numbers that nobody can use', '--auto_resume', ("its 'numpy' cannot be used (", ),
           saved('models/random_4.pth', lambda state: {**state, 'numpy': ('MT19937', [1, 2], 3, 0, 0.0)})),
    broken('random numbers that are a list', '--auto_resume', ('it holds list, not named parts', ),
           saved('models/random_4.pth', lambda state: [1])),
    broken('no checkpoint is complete', '--auto_resume', ('4.state is damaged: ',
           'leave out --auto_resume: the run then starts anew, and experiments/tiny is kept as '
           'experiments/tiny_archived_'), cut('training_states/4.state', 'training_states/2.state'), remedy=False),
    broken('a cut training state that is named', 'path.resume_state', ('4.state is damaged', '2.state'),
           cut('training_states/4.state'), {**EXACT, 'path.resume_state': f'{STATE}/4.state'}, arguments=()),
    broken('the only training state is cut and named', 'path.resume_state', ('4.state is damaged', 'resume_state: ~'),
           cut('training_states/4.state', 'models/net_g_2.pth'),
           {**EXACT, 'path.resume_state': f'{STATE}/4.state'}, arguments=()),
    broken('a renamed run', 'path.resume_state', ("4.state belongs to the run 'earlier', but name: is 'tiny'",
           'write name: earlier'), renamed,
           {**EXACT, 'path.resume_state': 'experiments/earlier/training_states/4.state'}, arguments=()),
    broken('a distillation state that is none', '--auto_resume', ("distill_4.pth holds no distillation state: it has "
           "no 'teacher'", ), saved('models/distill_4.pth', lambda state: {}), remedy=False),
    broken('a distillation state of wrong types', '--auto_resume', ("its 'losses' has a wrong type", ),
           saved('models/distill_4.pth', lambda state: {**state, 'losses': 3}), remedy=False),
    broken('a training state of wrong types', 'path.resume_state', ('4.state is not a training state of BasicSR', ),
           lambda folder: edit(folder / STATE / '4.state', lambda state: {**state, 'iter': 'four'}),
           {**EXACT, 'path.resume_state': f'{STATE}/4.state'}, arguments=()),
    broken('the optimizer of another model', '--auto_resume', ('4.state holds an optimizer for ', 'this model trains '),
           saved('training_states/4.state', lambda state: state), PLAIN | {'train.exact_resume': False}, remedy=False),
]
FOLDERS = [
    BadInput('experiments is a file', '/', ('/experiments: is a file, and BasicSR writes to a folder of that name', ),
             spoil=a_file('experiments'), remedy=False),
    BadInput('experiments is a link to nothing', '/', ('/experiments: is a link that leads nowhere', ),
             spoil=lambda folder: (folder / 'experiments').symlink_to('nowhere'), remedy=False),
    BadInput('tb_logger is a file', '/', ('/tb_logger: is a file', ), spoil=a_file('tb_logger'), remedy=False),
    BadInput('results is a file', '/', ('/results: is a file', ), spoil=a_file('results'), command='test',
             remedy=False),
]
CASES = [*HYPERPARAMETERS, *NOT_EXACT, *FILES, *FOLDERS]
