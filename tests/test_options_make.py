"""The option files of the papers' pairs are what options/make.py makes, and agree with each other."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from basicsr.archs import build_network
from helpers import REPO

OPTIONS = REPO / 'options'
PAIRS = [(arch, scale) for arch in ('EDSR', 'RCAN', 'SwinIR') for scale in (2, 3, 4)]
KINDS = ('train_MiPKD', 'train_KRNet', 'test_MiPKD')
MTKD = [f'train_MTKD_{stage}_x{scale}.yml' for stage in ('aggregate', 'EDSR') for scale in (2, 3, 4)]
REAL = [f'train_MiPKD_RealESR{kind}_x4.yml' for kind in ('Net', 'NetTiny', 'GAN')]
FAMILY = sorted([*(f'{kind}_{arch}_x{scale}.yml' for kind in KINDS for arch, scale in PAIRS), *MTKD, *REAL])


@pytest.fixture(scope='module')
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location('options_make', OPTIONS / 'make.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of make.py, its templates and the family, and another option file beside them."""
    for path in [*OPTIONS.glob('make*'), *map(OPTIONS.joinpath, FAMILY), OPTIONS / 'test_RRDB_PSNR_x4.yml']:
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # from another folder: the files lie beside make.py, not where it is called
    return subprocess.run([sys.executable, str(folder / 'make.py'), *arguments], cwd=folder.parent, text=True,
                          capture_output=True, timeout=60, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read(kind: str, arch: str, scale: int) -> Any:
    return yaml.safe_load((OPTIONS / f'{kind}_{arch}_x{scale}.yml').read_text(encoding='utf-8'))


# --------------------------------------------------------------------------------------------- the files are made
def test_made_anew_the_files_stay_as_they_are(make: ModuleType, tmp_path: Path) -> None:
    make.write(tmp_path)
    made = contents(tmp_path)
    assert sorted(made) == FAMILY
    for name, content in made.items():
        assert content.decode() == (OPTIONS / name).read_bytes().decode(), name


def test_no_file_of_the_family_is_left_out(make: ModuleType) -> None:
    named = re.compile(r'(train|test)_(MiPKD|KRNet|MTKD)_[A-Za-z0-9]+_x\d+\.yml')
    by_hand = {'train_MiPKD_SPAN_x4.yml', 'train_MiPKD_SAFMN_x4.yml'}  # networks of spandrel
    found = {path.name for path in OPTIONS.iterdir() if named.fullmatch(path.name)}
    assert sorted(found - by_hand) == sorted(make.family())
    assert by_hand <= found
    marked = [path.name for path in OPTIONS.glob('*.yml') if 'options/make.py' in path.read_text(encoding='utf-8')]
    assert sorted(marked) == sorted(make.family())


def test_each_file_begins_with_what_people_look_for() -> None:
    for name in FAMILY:
        lines = (OPTIONS / name).read_text(encoding='utf-8').splitlines()
        length = next(number for number, line in enumerate(lines) if not line.startswith('#'))
        head = '\n'.join(lines[:length])
        assert length <= 16, name
        assert lines[0] == '# yaml-language-server: $schema=../docs/option_file.schema.json'
        assert lines[1] == '# Made by options/make.py: change it there.'
        assert f'# Command:  basicsr {name.split("_")[0]} -opt options/{name}\n' in head
        assert re.findall(r'^# (\w+): ', head, flags=re.M)[-2:] == ['Cost', 'Expected'], name
        assert all(len(line) <= 120 for line in lines), name


# --------------------------------------------------------------------------------------------- --check
def test_check_finds_the_committed_files_in_order() -> None:
    done = run(OPTIONS, '--check')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.mark.parametrize('name', ['train_KRNet_SwinIR_x3.yml', 'test_MiPKD_EDSR_x2.yml'])
@pytest.mark.parametrize('change', ['value', 'comment', 'line ends', 'missing'])
def test_check_names_the_file_that_was_changed(copied: Path, name: str, change: str) -> None:
    assert run(copied, '--check').returncode == 0
    before = contents(copied)
    old = before[name]
    if change == 'missing':
        (copied / name).unlink()
    else:
        new = {'value': old.replace(b'manual_seed: 0', b'manual_seed: 1'), 'comment': old + b'# more\n',
               'line ends': old.replace(b'\n', b'\r\n')}[change]
        assert new != old
        (copied / name).write_bytes(new)
    changed = contents(copied)

    done = run(copied, '--check')
    assert done.returncode == 1
    assert re.findall(r'\w+\.yml', done.stdout + done.stderr) == [name]
    assert contents(copied) == changed  # it writes nothing

    assert run(copied).returncode == 0
    assert contents(copied) == before


# --------------------------------------------------------------------------------------------- the files agree
@pytest.mark.parametrize(('arch', 'scale'), PAIRS)
def test_the_scale_is_the_same_everywhere(arch: str, scale: int) -> None:
    for kind in KINDS:
        opt = read(kind, arch, scale)
        networks = [opt['network_g'], opt['teacher']['network']] if 'teacher' in opt else [opt['network_g']]
        assert opt['name'] == f'{kind.removeprefix("train_")}_{arch}_x{scale}'
        assert opt['scale'] == scale
        assert [(network['type'], network['upscale']) for network in networks] == [(arch, scale)] * len(networks)
        assert {Path(data['dataroot_lq']).stem for data in opt['datasets'].values()} == {f'LRbicx{scale}'}
        assert {metric['crop_border'] for metric in opt['val']['metrics'].values()} == {scale}
        if 'teacher' in opt:
            assert opt['datasets']['train']['gt_size'] == 48 * scale
            assert re.search(rf'x{scale}|BIX{scale}', opt['teacher']['weights'])


@pytest.mark.parametrize(('arch', 'scale'), PAIRS)
def test_the_files_of_a_pair_differ_in_the_method_alone(arch: str, scale: int) -> None:
    mipkd, krnet, test = (read(kind, arch, scale) for kind in KINDS)
    assert test['network_g'] == mipkd['network_g']
    assert test['path']['pretrain_network_g'] == f'experiments/{mipkd["name"]}/models/net_g_latest.pth'
    assert mipkd['train'].pop('distill_opt') == {'type': 'MiPKDLoss', 'taps': 4}
    assert krnet['train'].pop('distill_opt') == [
        {'type': 'KRNetLoss', 'taps': 4, 'loss_weight': 20.0, 'meta_every': 5}, {'type': 'LogitsKDLoss'}]
    assert krnet.pop('name') != mipkd.pop('name')
    assert krnet == mipkd


@pytest.mark.parametrize(('arch', 'scale'), PAIRS)
def test_the_header_gives_the_sizes_of_the_networks(arch: str, scale: int) -> None:
    opt = read('train_MiPKD', arch, scale)
    teacher, student = (sum(p.numel() for p in build_network(options).parameters()) / 1e6
                        for options in (opt['teacher']['network'], opt['network_g']))
    for kind in ('train_MiPKD', 'train_KRNet'):
        text = (OPTIONS / f'{kind}_{arch}_x{scale}.yml').read_text(encoding='utf-8')
        assert f'#           Teacher {teacher:.2f}M, student {student:.2f}M parameters.\n' in text


# --------------------------------------------------------------------------------------------- MTKD
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_both_stages_of_mtkd_are_those_of_the_paper(scale: int) -> None:
    first, second = (read('train_MTKD', stage, scale) for stage in ('aggregate', 'EDSR'))
    assert first['model_type'] == 'AggregateModel'
    assert first['network_g'] == {'type': 'KnowledgeAggregator', 'num_teachers': 3, 'upscale': scale, 'embed_dim': 96,
                                  'depths': [4, 4], 'num_heads': 6, 'window_size': 8, 'mlp_ratio': 2.0}
    assert [teacher['network'] for teacher in first['teachers']] == [
        read('train_MiPKD', arch, scale)['teacher']['network'] for arch in ('EDSR', 'SwinIR', 'RCAN')]
    assert [teacher['weights'] for teacher in first['teachers']] == [
        read('train_MiPKD', arch, scale)['teacher']['weights'] for arch in ('EDSR', 'SwinIR', 'RCAN')]
    assert first['train']['pixel_opt'] == {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
    assert (first['train']['optim_g']['type'], first['train']['optim_g']['lr']) == ('Adam', 2e-4)
    assert first['train']['ema_decay'] > 0
    assert second['train']['distill_opt'] == {'type': 'WaveletKDLoss'}, 'the released file trains with plain L1'
    assert second['train']['pixel_opt']['loss_weight'] == 0.1
    assert second['teacher'] == {'aggregate': f'experiments/{first["name"]}/models/net_g_latest.pth'}
    assert (second['network_g']['num_feat'], second['network_g']['num_block']) == (64, 16)
    assert second['network_g']['upscale'] == scale
    sizes = [sum(p.numel() for p in build_network(opt['network_g']).parameters()) / 1e6 for opt in (first, second)]
    for stage, opt in (('aggregate', first), ('EDSR', second)):
        text = (OPTIONS / f'train_MTKD_{stage}_x{scale}.yml').read_text(encoding='utf-8')
        assert opt['name'] == f'MTKD_{stage}_x{scale}'
        assert f'aggregator {sizes[0]:.2f}M' in text
        assert f'student {sizes[1]:.2f}M parameters' in text or stage == 'aggregate'


def test_the_small_files_of_mtkd_belong_together() -> None:
    first, second = (yaml.safe_load((OPTIONS / f'train_MTKD_{stage}_x2_small.yml').read_text(encoding='utf-8'))
                     for stage in ('aggregate', 'EDSR'))
    third = yaml.safe_load((OPTIONS / 'train_none_RCAN_x2_small.yml').read_text(encoding='utf-8'))
    assert second['train']['distill_opt'] == {'type': 'WaveletKDLoss'}
    assert second['teacher'] == {'aggregate': f'experiments/{first["name"]}/models/net_g_latest.pth'}
    assert first['teachers'][2]['network'] == third['network_g']
    assert first['teachers'][2]['weights'] == f'experiments/{third["name"]}/models/net_g_latest.pth'
    row = (OPTIONS / 'compare_EDSR_x2_small.yml').read_text(encoding='utf-8')
    assert f'experiments/{first["name"]}/models/net_g_latest.pth' in row
