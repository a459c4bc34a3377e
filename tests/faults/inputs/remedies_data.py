"""Data sets, images, checkpoints, weights, caches and names whose remedy is data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

from faults.harness import BadInput
from faults.inputs import any_network, dckd, hostile, images, not_finite, real_world, rehearsal, resume, weights
from faults.inputs.images import LISTED, LMDB, TRAIN, VAL, listing, of_lmdb, only_inside, spoiled
from faults.inputs.rehearsal import PLAIN, SINGLE
from faults.remedy_harness import Mistake
from mipkd_plugin.config import builder, teacher_cache
from mipkd_plugin.config.remedies import REMOVE

FULL = 'training full'
POOL = {'datasets.train.type': 'CropPoolDataset', 'datasets.train.crops': 64}
LOGITS = {'train.distill_opt': {'type': 'LogitsKDLoss'}}


def also(*names: str) -> list[Mistake]:
    """Bad inputs of the other modules, here without the command that is typed."""
    known = {case.name: case for module in (hostile, images, rehearsal, resume, weights, not_finite, any_network, dckd)
             for case in module.CASES}
    return [_mistake(known[name]) for name in names]


def _mistake(case: BadInput) -> Mistake:
    def spoil(folder: Path) -> None:
        (folder / 'home').mkdir(exist_ok=True)
        case.spoil(folder)

    kind = 'test' if case.command == 'test' else 'training'
    return Mistake(case.name, case.where, case.entries, spoil, f'{kind} {"resume" if case.arguments else "full"}',
                   lambda patch: patch.setenv('HOME', str(Path('home').absolute())))


def free(memory: int = 10**12, disk: int = 10**12) -> Callable[[pytest.MonkeyPatch], None]:
    """Bytes that are free."""
    def work(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(teacher_cache, 'psutil', SimpleNamespace(
            virtual_memory=lambda: SimpleNamespace(available=memory)))
        patch.setattr(teacher_cache, 'shutil', SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=disk)))

    return work


def one_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, 'device_count', lambda: 1)


def fails_in_half(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(builder, 'trial_problem', lambda loss, nets, *rest: (
        'no gradient' if nets.teacher.execution.dtype == torch.float16 else ''))


def loud_teacher(folder: Path) -> None:
    content = torch.load(folder / 'teacher.pth', weights_only=True)
    content['params']['conv_last.weight'] *= 1e8
    torch.save(content, folder / 'teacher.pth')


def renamed(folder: Path) -> None:
    """LR images as 0x2.png."""
    images.both(folder)
    for path in list((folder / 'LRbicx2').iterdir()):
        path.rename(path.with_stem(f'{path.stem}x2'))


def for_another_scale(folder: Path) -> None:
    """HR images that no scale fits, beside those that mipkd prepare made for this one."""
    images.both(folder)
    (folder / 'HR').rename(folder / 'HR_x2')
    (folder / 'HR').mkdir()
    for number in range(4):
        images.image(f'HR/{number}.png', 49, 49)(folder)


class Uneven(SingleImageDataset):
    """Images of two sizes."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = 8 + index
        return {'lq': torch.rand(3, size, size), 'gt': torch.rand(3, 2 * size, 2 * size), 'lq_path': str(index)}


def uneven(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(DATASET_REGISTRY._obj_map, 'Uneven', Uneven)


def data(name: str, key: str, value: Any, phase: str = 'train', check: str = 'training', where: str = '',
         **entries: Any) -> Mistake:
    """An odd entry of a data set."""
    place = f'datasets.{phase}.{key}'
    return Mistake(name, where or place, {**{f'datasets.{phase}.{k}': v for k, v in entries.items()}, place: value},
                   check=check)


SETS = [
    data('template without braces', 'filename_tmpl', 'x'),
    data('pool for validation', 'type', 'CropPoolDataset', 'val', crops=8, crop_seed=1),
    Mistake('pool that no memory holds', 'datasets.train.crops', {**POOL, 'datasets.train.crops': 10**12}),
    data('misspelled backend', 'io_backend', {'type': 'dsik'}, where='datasets.train.io_backend.type'),
    data('backend that is none', 'io_backend', {'type': 'foo'}, where='datasets.train.io_backend.type'),
    data('backend without a type', 'io_backend', {}, where='datasets.train.io_backend.type'),
    data('memcached', 'io_backend', {'type': 'memcached'}, where='datasets.train.io_backend.type'),
    data('lasting workers without workers', 'persistent_workers', True),
    data('prefetching without a GPU', 'prefetch_mode', 'cuda', pin_memory=True),
    Mistake('prefetching from memory that is not pinned', 'datasets.train.pin_memory', {
        'datasets.train.prefetch_mode': 'cuda', 'num_gpu': 'auto'}, patch=one_gpu),
    data('batches that are dropped', 'dataset_enlarge_ratio', 1, batch_size_per_gpu=3),
    data('epoch that no memory holds', 'dataset_enlarge_ratio', 10**12),
    Mistake('misspelled val', 'datasets.valid', {'datasets.valid': SINGLE, 'datasets.val': REMOVE,
                                                 'val.metrics': REMOVE}),
    Mistake('misspelled train', 'datasets.trian', {'datasets.trian.name': 'x'})._replace(
        entries={'datasets': {'trian': {**SINGLE, 'type': 'PairedImageDataset', 'dataroot_gt': 'HR', 'gt_size': 16,
                                        'use_hflip': True, 'use_rot': True, 'num_worker_per_gpu': 0,
                                        'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 4}}}),
    Mistake('test set in a training', 'datasets.test', {'datasets.test': SINGLE}),
    Mistake('training set alone in a test', 'datasets.train', {'datasets.train': SINGLE, 'datasets.test': REMOVE,
                                                               'val.metrics': REMOVE}, check='test'),
    Mistake('set that is a number', 'datasets.val_2', {'datasets.val_2': 5}),
    data('mean and std', 'mean', [0.5] * 3, 'val', std=[0.5] * 3),
    data('list of another user', 'meta_info_file', '~/list.txt', 'val')._replace(
        spoil=lambda folder: ((folder / 'home').mkdir(), (folder / 'home/list.txt').write_text('0.png\n')),
        patch=lambda patch: patch.setenv('HOME', str(Path('home').absolute()))),
    Mistake('two sets of one name', 'datasets.val_2.name', {'datasets.val_2': {**SINGLE, 'name': 'val'},
                                                            'val.metrics': REMOVE}),
    Mistake('images without a backend', 'datasets.val.io_backend', {
        'datasets.val': {**SINGLE, 'type': 'Uneven'}, 'datasets.val.io_backend': REMOVE, 'val': None}, patch=uneven),
    Mistake('images of two sizes', 'datasets.train', {
        **PLAIN, 'datasets.train.type': 'Uneven', 'datasets.train.dataroot_gt': REMOVE, 'datasets.val': REMOVE,
        'val': REMOVE}, patch=uneven),
]
IMAGES = [
    Mistake('images only inside a folder', f'{TRAIN}.dataroot_gt', VAL, spoiled(only_inside)),
    Mistake('folders read as an LMDB', (f'{TRAIN}.dataroot_gt', f'{TRAIN}.dataroot_lq'),
            {**VAL, f'{TRAIN}.io_backend': {'type': 'lmdb'}}, images.both),
    Mistake('LMDBs read as folders', (f'{TRAIN}.dataroot_gt', f'{TRAIN}.dataroot_lq'),
            {**LMDB, f'{TRAIN}.io_backend': {'type': 'disk'}}, of_lmdb(lambda folder: None)),
    Mistake('LMDB with a slash and a dot', f'{TRAIN}.dataroot_gt', {**LMDB, f'{TRAIN}.dataroot_gt': 'HR.lmdb/.'},
            of_lmdb(lambda folder: None)),
    Mistake('LMDB with two slashes', f'{TRAIN}.dataroot_lq', {**LMDB, f'{TRAIN}.dataroot_lq': 'LRbicx2.lmdb//'},
            of_lmdb(lambda folder: None)),
    Mistake('LR images of another name', f'{TRAIN}.dataroot_lq', VAL, renamed),
    Mistake('list that is empty', f'{TRAIN}.meta_info_file', LISTED, listing('')),
    Mistake('HR images for another scale', TRAIN, VAL, for_another_scale),
    data('patch that is larger than an image', 'gt_size', 64),
    data('patch that the scale does not divide', 'gt_size', 15),
]
CACHE = [
    Mistake('type of no cache', 'teacher.cache_dtype', {'teacher.cache_dtype': 'float16'}, check=FULL),
    Mistake('cache of crops that change', 'teacher.cache', {'teacher.cache': 'memory'}, check=FULL),
    Mistake('cache with another ending', 'teacher.cache', {**POOL, 'teacher.cache': 'cache.db'}, check=FULL),
    Mistake('cache that no memory holds', 'teacher.cache', {**POOL, **LOGITS, 'teacher.cache': 'memory'}, check=FULL,
            patch=free(memory=100_000)),
    Mistake('cache that no disk holds', 'teacher.cache', {**POOL, **LOGITS, 'teacher.cache': 'c.lmdb'}, check=FULL,
            patch=free(disk=100_000)),
    Mistake('cache that is a file', 'teacher.cache', {**POOL, 'teacher.cache': 'c.lmdb'},
            lambda folder: (folder / 'c.lmdb').write_text('x'), FULL),
    Mistake('cache of numbers that are too large', 'teacher.cache_dtype', {
        **POOL, **LOGITS, 'teacher.cache': 'memory', 'teacher.cache_dtype': 'float16'}, loud_teacher, FULL),
    Mistake('loss that fails with a cast teacher', 'teacher.dtype', {'teacher.dtype': 'float16', **LOGITS},
            check=FULL, patch=fails_in_half),
    Mistake('teacher that is too loud for float16', 'teacher.dtype', {'teacher.dtype': 'float16', **LOGITS},
            loud_teacher, FULL),
]
OTHERS = also(
    'name that climbs', 'folder of the user as a name', 'data set that climbs', 'suffix that climbs',
    'RRDBNet at scale 2 with an odd patch', 'no HR images for PSNR', 'SSIM of a small image and a wide border',
    'NIQE of a small image', 'SSIM of an image of 8×8', 'a metric for tensors', 'RRDBNet at scale 2 with odd sizes',
    'color in val alone',
    'SwinIR without padding', 'windows 8 and 12', 'another lr on resume', 'another batch size in an exact resume',
    'another s on resume', 'NIQE without better', 'DCKD with the s of the paper in a short run',
    'random numbers that are none', 'random numbers that were not wanted before', 'a renamed run',
    'a cut training state that is named',
    'the only training state is cut and named', 'student with one NaN', 'another key than the one named',
    'no key named for a student', 'bare student with a moving average', 'student for x4', 'student that is not there',
    'student that returns a list', 'output of a network that returns an image',
    'output of a model that does not read it', 'model that would train without its teacher',
    'cache of a teacher that mixes a batch')
REAL_WORLD = [_mistake(case) for case in real_world.CASES if case.remedy]
CASES = [*SETS, *IMAGES, *CACHE, *OTHERS, *REAL_WORLD]
