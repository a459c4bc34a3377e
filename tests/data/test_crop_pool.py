"""The crop pool: fixed crops, drawn by BasicSR's own rules; and the cache of the teacher's passes over them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import psutil
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.models import build_model
from faults.inputs.remedies_data import free
from helpers import as_parsed, batch, change, make_pair
from training import launched, train, write_options

from mipkd_plugin import FitNetLoss, bind, config
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.networks.teacher_cache import CacheError, TeacherCache

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def pool_options(make: Make, **more: Any) -> dict[str, Any]:
    opt = make()
    opt['datasets']['train'].update(type='CropPoolDataset', crops=6, **more)
    opt['teacher']['cache'] = 'memory'
    return opt


def dataset(opt: dict[str, Any]) -> Any:
    return build_dataset({**opt['datasets']['train'], 'phase': 'train', 'scale': opt['scale']})


def test_crops_are_drawn_once_and_differ(train_options: Make) -> None:
    opt = pool_options(train_options)
    state = random.getstate()
    one, other = dataset(opt), dataset(opt)
    assert random.getstate() == state, 'the run draws the same numbers with a pool and without'
    assert len(one) == 6
    for index in range(6):
        first, again = one[index], other[index]
        assert first['crop'] == index
        for key in ('lq', 'gt'):
            assert torch.equal(first[key], one[index][key])
            assert torch.equal(first[key], again[key])
        assert first['gt'].shape == (3, 16, 16)
        assert first['lq'].shape == (3, 8, 8)
    assert not torch.equal(one[0]['gt'], one[4]['gt']), 'four images: crops 0 and 4 are of the same one'
    images = build_dataset({**train_options()['datasets']['train'], 'phase': 'train', 'scale': 2})
    order = [paths['gt_path'] for paths in images.paths]
    found = [one[index]['gt_path'] for index in range(4)]
    assert sorted(found) == sorted(order), 'each image once, before one comes again'
    assert found != order, 'a pool smaller than the data takes any of the images, not the first ones'
    seeded = dataset(pool_options(train_options, crop_seed=1))
    assert not all(torch.equal(one[i]['gt'], seeded[i]['gt']) for i in range(6))


@pytest.mark.parametrize('more', [{}, {'color': 'y'}, {'mean': [0.5] * 3, 'std': [0.5] * 3}])
def test_crops_are_those_of_paired_image_dataset(train_options: Make, more: dict[str, Any]) -> None:
    """No rounding, whatever the images are turned into."""
    opt = pool_options(train_options, **more)
    found = dataset(opt)
    plain = {key: value for key, value in opt['datasets']['train'].items() if key != 'crops'}
    images = build_dataset({**plain, 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 2})
    for index in range(6):
        number = next(i for i, paths in enumerate(images.paths) if paths['gt_path'] == found[index]['gt_path'])
        random.seed(f'0 {index}')
        expected = images[number]
        assert torch.equal(found[index]['gt'], expected['gt'])
        assert torch.equal(found[index]['lq'], expected['lq'])


def tapped() -> Any:
    student, teacher = make_pair('EDSR')
    return bind([FitNetLoss(taps=2)], student, teacher, batch('EDSR')[0][:1])


@pytest.mark.parametrize('where', ['memory', 'lmdb'])
@pytest.mark.parametrize(('dtype', 'error'), [('float32', 1e-5), ('float16', 2e-3), ('bfloat16', 1e-2)])
def test_a_cached_pass_is_the_teachers(tmp_path: Path, where: str, dtype: str, error: float) -> None:
    nets, (lq, _) = tapped(), batch('EDSR', samples=4)
    cache = TeacherCache(nets.teacher, lq[:1], 4, dtype, None if where == 'memory' else tmp_path / 'c.lmdb', 'hash')
    expected = nets.teacher(lq)
    runs: list[int] = []
    nets.teacher.net.register_forward_hook(lambda *args: runs.append(1))
    for order in ([2, 0], [3, 2, 1, 0]):
        found = cache(lq[order], torch.tensor(order))
        assert list(found.features) == list(nets.teacher.taps)
        for name, value in {'': found.output, **found.features}.items():
            wanted = (expected.output if name == '' else expected.features[name])[order]
            assert value.dtype == torch.float32
            assert ((value - wanted).abs().max() / wanted.abs().max()).item() < error
    assert len(runs) == 4, 'each crop once'
    before = cache(lq, torch.arange(4)).output
    assert torch.equal(cache(lq.flip(0), torch.arange(4).flip(0)).output.flip(0), before)


def test_an_lmdb_outlives_the_run_and_notices_other_crops(tmp_path: Path) -> None:
    nets, (lq, _) = tapped(), batch('EDSR', samples=4)
    first = TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')(lq, torch.arange(4))
    runs: list[int] = []
    nets.teacher.net.register_forward_hook(lambda *args: runs.append(1))
    again = TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')
    runs.clear()
    assert torch.equal(again(lq, torch.arange(4)).output, first.output)
    assert not runs
    changed = lq.clone()
    changed[1] += 0.1
    assert not torch.equal(again(changed, torch.arange(4)).output[1], first.output[1])
    assert len(runs) == 1


@pytest.mark.parametrize(('dtype', 'fingerprint', 'what'), [('float16', 'hash', 'type'), ('float32', 'xx', 'teacher')])
def test_an_lmdb_of_something_else_is_refused(tmp_path: Path, dtype: Any, fingerprint: str, what: str) -> None:
    nets, (lq, _) = tapped(), batch('EDSR')
    TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')
    with pytest.raises(CacheError, match=f'was made with another {what}; delete it, or name another'):
        TeacherCache(nets.teacher, lq[:1], 4, dtype, tmp_path / 'c.lmdb', fingerprint)


def test_changed_crops_are_run_again_in_memory_too() -> None:
    nets, (lq, _) = tapped(), batch('EDSR')
    cache = TeacherCache(nets.teacher, lq[:1], 4)
    before = cache(lq, torch.arange(2)).output
    changed = torch.stack([lq[0], 1 - lq[1]])
    after = cache(changed, torch.arange(2)).output
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(after, nets.teacher(changed).output)


def test_other_peoples_lmdbs_and_damaged_ones_are_left_alone(tmp_path: Path) -> None:
    nets, (lq, _) = tapped(), batch('EDSR')

    def refused(message: str) -> None:
        with pytest.raises(CacheError, match=message):
            TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')

    def write(key: bytes, value: bytes) -> None:
        with lmdb.open(str(tmp_path / 'c.lmdb')) as environment, environment.begin(write=True) as transaction:
            transaction.put(key, value)

    write(b'0', b'an image')
    refused('c.lmdb is an LMDB of something else; name another')
    with lmdb.open(str(tmp_path / 'c.lmdb'), readonly=True) as environment, environment.begin() as transaction:
        assert dict(transaction.cursor()) == {b'0': b'an image'}
    for damage in (b'[1', b'[1]', b'\xff'):
        write(b'mipkd teacher cache', damage)
        refused('the cache .*c.lmdb is damaged; delete it, or name another')


def test_a_torn_row_is_made_again(tmp_path: Path) -> None:
    nets, (lq, _) = tapped(), batch('EDSR')
    cache = TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')
    before = cache(lq, torch.arange(2)).output
    with cache.store.environment.begin(write=True) as transaction:
        row = transaction.get(b'crop 1')
        transaction.put(b'crop 1', row[:8] + bytes(8) + row[16:])
    assert torch.equal(cache(lq, torch.arange(2)).output, before)


def test_numbers_that_the_type_cannot_hold_and_batches_without_numbers() -> None:
    nets, (lq, _) = tapped(), batch('EDSR')
    cache = TeacherCache(nets.teacher, lq[:1], 4, 'float16')
    with pytest.raises(CacheError, match="torch.float16 cannot hold the teacher's numbers for crop 0"):
        cache(lq * 1e8, torch.arange(2))
    with pytest.raises(CacheError, match='must call super'):
        cache(lq, None)


@pytest.mark.parametrize(('change_of', 'value'), [('teacher.network.res_scale', 0.5), ('teacher.dtype', 'bfloat16')])
def test_another_teacher_with_the_same_weights_is_another(train_options: Make, tmp_path: Path, change_of: str,
                                                          value: Any) -> None:
    opt = pool_options(train_options)
    opt['teacher']['cache'] = str(tmp_path / 'c.lmdb')
    model = build_model(as_parsed(opt, tmp_path))
    model.cache = None
    change(opt, change_of, value)
    found = list(config.check_options(opt, is_train=True).problems)
    assert [problem.where for problem in found] == ['teacher.cache'], found
    assert 'was made with another teacher' in found[0].what


def test_training_with_a_cache_is_training_without(train_options: Make, tmp_path: Path) -> None:
    """The same crops, in float32: the same student but for rounding, and a teacher that runs once on each crop."""
    students, counts = [], []
    for cache in (None, 'memory', str(tmp_path / 'teacher.lmdb'), str(tmp_path / 'teacher.lmdb')):
        opt = pool_options(train_options)
        opt['teacher']['cache'] = cache
        opt['train']['distill_opt'] = {'type': 'FitNetLoss', 'taps': 3}
        torch.manual_seed(0)
        model, runs = build_model(as_parsed(opt, tmp_path)), []
        model.teacher.register_forward_hook(lambda module, args, output, runs=runs: runs.append(1))
        crops = dataset(opt)
        for iteration in range(1, 5):
            pair = [crops[iteration % 3], crops[3]]
            model.feed_data({key: torch.stack([c[key] for c in pair]) for key in ('lq', 'gt')}
                            | {'crop': torch.tensor([c['crop'] for c in pair])})
            model.optimize_parameters(iteration)
        students.append(torch.cat([p.detach().flatten() for p in model.net_g.parameters()]))
        counts.append(len(runs))
        model.cache = None  # closes the LMDB
    assert counts[1:] == [4, 4, 0]
    assert torch.equal(students[1], students[2])
    assert torch.equal(students[2], students[3])
    assert np.allclose(students[0], students[1], atol=2e-4)


def test_basicsr_train_with_a_pool_and_what_check_says(train_options: Make, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = pool_options(train_options)
    opt['teacher'].update(cache='teacher.lmdb', cache_dtype='float16')
    path = write_options(opt, tmp_path / 'pool.yml')
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    shown = capsys.readouterr().out
    size = 2 * (3 * 16 * 16 + 3 * 12 * 8 * 8)
    assert f'cache    6 crops × {size:,d} bytes = 0.04 MB in teacher.lmdb' in shown
    assert not (tmp_path / 'teacher.lmdb').exists()
    assert train(path) == 0
    assert (tmp_path / 'teacher.lmdb' / 'data.mdb').is_file()
    assert '6 crops × ' in next((tmp_path / 'experiments/tiny').glob('*.log')).read_text()


def test_a_cache_that_is_cut_short_is_refused(train_options: Make, tmp_path: Path) -> None:
    """Opening it would end the process with a bus error."""
    nets, (lq, _) = tapped(), batch('EDSR', samples=4)
    TeacherCache(nets.teacher, lq[:1], 4, 'float32', tmp_path / 'c.lmdb', 'hash')(lq, torch.arange(4))
    data = tmp_path / 'c.lmdb' / 'data.mdb'
    os.truncate(data, data.stat().st_size // 2)
    opt = pool_options(train_options)
    opt['teacher']['cache'] = str(tmp_path / 'c.lmdb')
    found = list(config.check_options(opt, is_train=True).problems)
    assert [problem.where for problem in found] == ['teacher.cache'], found
    assert 'c.lmdb is damaged: data.mdb is cut short' in str(found[0])


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({'datasets.train.type': 'PairedImageDataset', 'datasets.train.crops': ...},
     ['teacher.cache', 'needs crops that stay the same, and datasets.train.type is PairedImageDataset',
      'write type: CropPoolDataset and crops: 4096']),
    ({'teacher.cache': 'cache.db'}, ['teacher.cache', 'cache.db is neither memory nor a name that ends in .lmdb']),
    ({'teacher.cache_dtype': 'int8'}, ['teacher.cache_dtype', 'must be float32, float16 or bfloat16']),
    ({'teacher.cache': ..., 'teacher.cache_dtype': 'float16'}, ['teacher.cache_dtype', 'and there is none']),
    ({'datasets.train.crops': 0}, ['datasets.train.crops', 'must be a whole number, 1 or more']),
    ({'datasets.train.crops': ...}, ['datasets.train.crops', 'is missing']),
    ({'datasets.train.crop_seed': -1}, ['datasets.train.crop_seed', 'must be a whole number from 0 to']),
    ({'datasets.val.type': 'CropPoolDataset', 'datasets.val.crops': 3}, ['datasets.val.type', 'is for training']),
    ({'datasets.train.crops': 10**12, 'teacher.cache': ...},
     ['datasets.train.crops', '1,000,000,000,000 crops take 960000.00 GB, and', 'write fewer crops']),
    ({'datasets.train.crops': '16'}, ['datasets.train.crops', "'16' is a string", 'write 16 without quotes']),
    ({'teacher.cache': 'HR/0.png/c.lmdb'}, ['teacher.cache', 'HR/0.png/c.lmdb cannot be made', 'name another']),
    ({'datasets.train.crops': 10**7}, ['teacher.cache', '10,000,000 crops × 12,288 bytes = 122.88 GB in memory',
                                       'write fewer crops']),
    ({'datasets.train.crops': 10**7, 'teacher.cache': 'big.lmdb'}, ['teacher.cache', 'GB in big.lmdb', 'are free in']),
]


@pytest.mark.parametrize(('changes', 'parts'), BAD, ids=[' '.join(changes) for changes, _ in BAD])
def test_bad_pools_are_refused_before_anything_is_written(train_options: Make, tmp_path: Path, changes: dict[str, Any],
                                                          parts: list[str], monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    free(memory=32 * 10**9, disk=32 * 10**9)(monkeypatch)
    opt = pool_options(train_options)
    for where, value in changes.items():
        change(opt, where, value)
    path = write_options(opt, tmp_path / 'bad.yml')
    before = sorted(tmp_path.rglob('*'))
    assert basicsr_main(['train', '-opt', str(path)]) == 2
    message = capsys.readouterr().err
    for part in parts:
        assert part in message
    assert '1 problem' in message
    assert sorted(tmp_path.rglob('*')) == before


def test_memory_is_asked_for_once_per_process(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = pool_options(train_options)
    free = type('Memory', (), {'available': 6 * 12288 * 3})
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)
    for ranks, problems in ((2, 0), (4, 1)):
        launched(monkeypatch, ranks=ranks)
        found = config.check_options(opt, is_train=True, launcher='pytorch').problems
        assert len([problem for problem in found if problem.where == 'teacher.cache']) == problems, found
