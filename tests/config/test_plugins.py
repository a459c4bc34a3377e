"""The doors for classes of others: ``imports``, ``--import`` and entry points, and what goes wrong there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY
from helpers import REPO
from training import comparison_options, typed, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.compare.run_folders import refuse_other_options
from mipkd_plugin.config import plugins

Make = Callable[..., dict[str, Any]]
REGISTRIES = (ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY)

LOSS = '''
from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin import DistillationLoss


@LOSS_REGISTRY.register()
class TheirLoss(DistillationLoss):
    def forward(self, step):
        return {'l_their': (step.student.output - step.teacher.output).abs().mean()}
'''
NETWORK = '''
from basicsr.archs.edsr_arch import EDSR
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class TheirNet(EDSR):
    def __init__(self, width):
        super().__init__(3, 3, width, 3, 2)
'''
MODEL = '''
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin import DistillMixin


@MODEL_REGISTRY.register()
class TheirModel(DistillMixin, SRModel):
    pass
'''
DATASET = '''
import os

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class TheirDataset(PairedImageDataset):
    def __getitem__(self, index):
        with open(f'worker_{os.getpid()}.txt', 'a'):
            return super().__getitem__(index)
'''


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports and registers is forgotten; Python would compile, as it does for users."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'dont_write_bytecode', False)
    monkeypatch.delenv('PYTHONDONTWRITEBYTECODE', raising=False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    entries = [dict(registry._obj_map) for registry in REGISTRIES]
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, '__file__', None)).startswith(str(tmp_path)):
            del sys.modules[name]
    for registry, before in zip(REGISTRIES, entries):
        registry._obj_map.clear()
        registry._obj_map.update(before)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, beside the folder ``home`` for option files."""
    (tmp_path / 'work').mkdir()
    (tmp_path / 'home').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    return tmp_path / 'work'


def option_file(make: Make, folder: Path, **changes: Any) -> str:
    """An option file in a folder, with TheirLoss where nothing else is asked for."""
    losses = changes.pop('losses', {'type': 'TheirLoss'})
    opt = make(**changes)
    opt['train']['distill_opt'] = losses
    opt['train']['total_iter'] = 2
    return str(write_options(opt, folder / 'x.yml'))


def problem(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one problem that a command refuses."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert ': 1 problem\n1. ' in captured.err
    return captured.err.partition('\n1. ')[2].rstrip()


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': '',
                   **variables}
    return subprocess.run([sys.executable, '-m', 'mipkd_plugin', *command], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=240, check=False)


# ---------------------------------------------------------------------------------- where files and modules are found
@pytest.mark.parametrize('place', ['beside', 'working', 'absolute', 'below'])
def test_files(place: str, train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = work.parent / 'home'
    folder = {'working': work, 'below': home / 'my'}.get(place, home)
    folder.mkdir(exist_ok=True)
    (folder / 'their_loss.py').write_text(LOSS)
    entry = {'absolute': str(folder / 'their_loss.py'), 'below': 'my/their_loss.py'}.get(place, 'their_loss.py')
    assert mipkd_main(['check', '-opt', option_file(train_options, home, imports=[entry])]) == 0
    assert 'loss     TheirLoss, 0 parameters' in capsys.readouterr().out
    assert os.listdir(folder) == ['their_loss.py'] if folder != home else sorted(os.listdir(home)) == [
        'their_loss.py', 'x.yml'], 'nothing is compiled either'


def test_the_file_beside_the_option_file_comes_first_and_for_the_command_line_the_one_that_lies_here(
        train_options: Make, work: Path) -> None:
    (work.parent / 'home/their_loss.py').write_text(LOSS)
    (work / 'their_loss.py').write_text(LOSS.replace('TheirLoss', 'OtherLoss'))
    path = option_file(train_options, work.parent / 'home', imports=['their_loss.py'])
    config.load_plugins(config.read_options(path))
    assert sys.modules['their_loss'].__file__ == str(work.parent / 'home/their_loss.py')
    del sys.modules['their_loss']
    sys.path.remove(str(work.parent / 'home'))
    config.load_plugins(config.read_options(option_file(train_options, work.parent / 'home')), ['their_loss.py'])
    assert sys.modules['their_loss'].__file__ == str(work / 'their_loss.py')


@pytest.mark.parametrize('place', ['installed', 'home', 'work'])
def test_modules(place: str, train_options: Make, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = work.parent / place
    (root / 'their_package/losses').mkdir(parents=True)
    for file in ('__init__.py', 'losses/__init__.py'):
        (root / 'their_package' / file).touch()
    (root / 'their_package/names.py').write_text("TERM = 'l_their'\n")
    (root / 'their_package/losses/their_loss.py').write_text(
        LOSS.replace("'l_their'", 'TERM').replace('\nfrom mipkd', '\nfrom ..names import TERM\nfrom mipkd'))
    if place == 'installed':
        monkeypatch.syspath_prepend(str(root))
    path = option_file(train_options, work.parent / 'home', imports=['their_package.losses.their_loss'])
    opt = config.read_options(path)
    config.load_plugins(opt)
    assert config.check_options(opt, is_train=True).problems == []
    file = str(root / 'their_package/losses/their_loss.py')
    assert config.absolute_imports(opt) == [opt['imports'][0] if place == 'installed' else file]
    for name in [name for name in sys.modules if name.startswith('their_package')]:
        del sys.modules[name]
    LOSS_REGISTRY._obj_map.pop('TheirLoss')
    opt['imports'] = [file]  # a file in a package keeps its name, and with it its relative imports
    config.load_plugins(opt)
    assert LOSS_REGISTRY.get('TheirLoss').__module__ == 'their_package.losses.their_loss'


def test_several_files_and_classes(train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'their_losses.py').write_text(LOSS + LOSS.replace('TheirLoss', 'OtherLoss').replace('l_their', 'l_other'))
    (work / 'rest.py').write_text(NETWORK + MODEL)
    path = option_file(train_options, work, imports=['their_losses.py'], network_g={'type': 'TheirNet', 'width': 8},
                       model_type='TheirModel', losses=[{'type': 'TheirLoss'}, {'type': 'OtherLoss'}])
    assert mipkd_main(['check', '-opt', path, '--import', 'rest.py']) == 0
    out = capsys.readouterr().out
    assert all(piece in out for piece in ('student  TheirNet, ', 'loss     TheirLoss', 'loss     OtherLoss'))
    assert mipkd_main(['taps', '-opt', path, '--import', 'rest.py']) == 0
    assert 'student TheirNet' in capsys.readouterr().out


def test_entry_points(train_options: Make, work: Path, monkeypatch: pytest.MonkeyPatch,
                      capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'their_loss.py').write_text(LOSS)
    (work / 'bad_plugin.py').write_text('import a_package_that_is_not_there\n')
    monkeypatch.syspath_prepend(str(work))
    found = [EntryPoint('theirs', 'their_loss', plugins.GROUP)]
    monkeypatch.setattr(plugins, 'entry_points', lambda group: found if group == 'basicsr.plugins' else [])
    path = option_file(train_options, work)
    assert mipkd_main(['check', '-opt', path]) == 0
    found.append(EntryPoint('bad', 'bad_plugin', plugins.GROUP))
    assert mipkd_main(['check', '-opt', path]) == 2
    assert capsys.readouterr().err == (
        "the BasicSR plug-in 'bad_plugin' cannot be imported: ModuleNotFoundError: No module named "
        "'a_package_that_is_not_there'; fix or uninstall that package\n")


# ---------------------------------------------------------------------------------- what goes wrong, and the remedies
def test_an_unknown_loss_names_the_door(train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = option_file(train_options, work, losses={'type': 'SPKDLoss'})
    found = problem(mipkd_main, ['check', '-opt', path], capsys)
    assert found.startswith('train.distill_opt.type (line ')
    assert "there is no loss 'SPKDLoss'" in found
    assert found.endswith('Your own loss: write @LOSS_REGISTRY.register() above its class and name its file or module, '
                          'as in imports: [my_method.py], or with --import my_method.py')
    (work / 'my_method.py').write_text(LOSS.replace('TheirLoss', 'SPKDLoss'))
    assert mipkd_main(['check', '-opt', path, *found.split()[-2:]]) == 0
    entry, = re.findall(r'imports: \[my_method.py\]', found)
    with open(path, 'a') as file:
        file.write(f'{entry}\n')
    assert mipkd_main(['check', '-opt', path]) == 0


def test_a_file_that_is_not_there(train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = work.parent / 'home'
    path = option_file(train_options, home, imports=['their_loss.py'])
    line = next(n for n, text in enumerate(Path(path).read_text().splitlines(), 1) if '- their_loss.py' in text)
    assert problem(mipkd_main, ['check', '-opt', path], capsys) == (
        f'imports[0] (line {line}): their_loss.py does not exist; looked in {home} and in {work}\n'
        '   -> fix the path, or put the file there')
    assert problem(mipkd_main, ['check', '-opt', path, '--force_yml', 'imports=[]', '--import', 'no.py'], capsys) == (
        f'--import no.py: no.py does not exist; looked in {work} and in {home}\n'
        '   -> fix the path, or put the file there')
    (work / 'their_loss.py').write_text(LOSS)
    assert mipkd_main(['check', '-opt', path]) == 0


FAULTS = [
    # (content of faulty.py, what is said, remedy)
    ('import os\n\nx = = 1\n', 'SyntaxError: invalid syntax (faulty.py, line 3)\n', 'fix faulty.py, or take it out'),
    ('import os\n\n\ndef f():\n    return 1 / 0\n\n\nf()\n', 'ZeroDivisionError: division by zero (faulty.py, line 5)',
     'fix faulty.py, or take it out'),
    ('import math\nmath.sqrt(-1)\n', 'ValueError: ', 'fix faulty.py, or take it out'),
    ('import kornia_that_is_not_there.losses\n', "ModuleNotFoundError: No module named 'kornia_that_is_not_there' "
     '(faulty.py, line 1)', 'install kornia_that_is_not_there, or do without it in faulty.py'),
    ('from mipkd_plugin import Setp\n', "ImportError: cannot import name 'Setp' from 'mipkd_plugin'",
     'fix faulty.py, or take it out'),
    ('import sys\nsys.exit(3)\n', 'SystemExit: 3 (faulty.py, line 2)', 'move the program part of faulty.py under if '
     "__name__ == '__main__':"),
    (LOSS.replace('TheirLoss', 'RKDLoss'), "AssertionError: An object named 'RKDLoss' was already registered",
     'fix faulty.py, or take it out'),
]


@pytest.mark.parametrize(('content', 'what', 'remedy'), FAULTS)
def test_a_file_with_a_fault(content: str, what: str, remedy: str, train_options: Make, work: Path,
                             capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'faulty.py').write_text(content)
    (work / 'their_loss.py').write_text(LOSS)
    path = option_file(train_options, work, imports=['their_loss.py', 'faulty.py'])
    found = problem(mipkd_main, ['check', '-opt', path], capsys)
    assert re.match(r'imports\[1\] \(line \d+\): faulty.py cannot be imported: ', found)
    assert what in found
    assert found.endswith(f'\n   -> {remedy}')
    assert sorted(os.listdir(work)) == ['faulty.py', 'their_loss.py', 'x.yml']
    assert mipkd_main(['check', '-opt', path, '--force_yml', "imports=['their_loss.py']"]) == 0  # it was taken out


@pytest.mark.parametrize(('entry', 'pieces'), [
    ('json.py', ['json.py has the name of another module, /', 'json/__init__.py', 'rename {work}/json.py']),
    ('antigravity.py', ['antigravity.py has the name of another module, /']),  # would open a browser
    ('sys.py', ['sys.py has the name of another module, sys\n', 'rename {work}/sys.py']),
    ('my.method.py', ['my.method.py has a dot in its name', 'rename it to my_method.py']),
    ('no_package.losses', ["no_package.losses cannot be imported: ModuleNotFoundError: No module named 'no_package'\n",
                           'fix the name, install the package, or name a file: my_method.py']),
    (3, ['must be a file or a module, not 3', 'write my_method.py or my_package.archs']),
    ('', ["must be a file or a module, not ''"]),
])
def test_names_that_do_not_work(entry: Any, pieces: list[str], train_options: Make, work: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    if str(entry).endswith('.py'):
        (work / entry).write_text(LOSS)
    path = option_file(train_options, work, imports=[entry])
    found = problem(mipkd_main, ['check', '-opt', path], capsys)
    assert found.startswith('imports[0] (line ')
    assert all(piece.format(work=work) in found for piece in pieces), found
    if 'rename' in found:
        (work / entry).rename(work / 'my_method.py')
        assert mipkd_main(['check', '-opt', option_file(train_options, work, imports=['my_method.py'])]) == 0
    assert 'antigravity' not in sys.modules


@pytest.mark.parametrize('value', ['their_loss.py', {'a': 1}, 3])
def test_something_else_than_a_list(value: Any, train_options: Make, work: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'their_loss.py').write_text(LOSS)
    path = option_file(train_options, work, imports=value)
    found = problem(basicsr_main, ['train', '-opt', path], capsys)
    assert f'must be a list of files or modules, not {value!r}' in found
    if isinstance(value, str):
        assert found.endswith('-> write imports: [their_loss.py]')
        path = option_file(train_options, work, imports=['their_loss.py'])
        assert mipkd_main(['check', '-opt', path]) == 0


def test_all_entries_are_reported_at_once(train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = option_file(train_options, work, imports=['a.py', 'b.py'])
    assert mipkd_main(['check', '-opt', path, '--import', 'c.py', '--import', 'd.py']) == 2
    said = capsys.readouterr().err
    assert '4 problems' in said
    assert all(f'{name}.py does not exist' in said for name in 'abcd')


# ---------------------------------------------------------------------------------- as processes of their own
def test_train_with_import(train_options: Make, work: Path) -> None:
    (work / 'theirs.py').write_text(LOSS + NETWORK + MODEL)
    path = option_file(train_options, work.parent / 'home', network_g={'type': 'TheirNet', 'width': 8},
                       model_type='TheirModel')
    refused = typed('train', '-opt', path, program=basicsr_main, cwd=work)
    assert refused.returncode == 2
    assert "there is no model 'TheirModel'" in refused.stderr
    assert "there is no network 'TheirNet'" in refused.stderr
    assert os.listdir(work) == ['theirs.py']
    trained = typed('train', '-opt', path, '--import', 'theirs.py', program=basicsr_main, cwd=work)
    assert trained.returncode == 0, trained.stderr
    assert (work / 'experiments/tiny/models/net_g_2.pth').is_file()
    assert 'l_their' in next((work / 'experiments/tiny').glob('train_tiny_*.log')).read_text()


def test_spawned_workers_find_a_data_set_of_theirs(train_options: Make, work: Path) -> None:
    (work.parent / 'home/theirs.py').write_text(LOSS + DATASET)
    opt = train_options(imports=['theirs.py'])
    opt['datasets']['train'].update(type='TheirDataset', num_worker_per_gpu=1, persistent_workers=True)
    path = option_file(lambda: opt, work.parent / 'home')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    launched = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    result = run('train', '-opt', path, '--launcher', 'pytorch', cwd=work, **launched)
    assert result.returncode == 0, result.stderr
    assert (work / 'experiments/tiny/models/net_g_2.pth').is_file()
    assert len(list(work.glob('worker_*.txt'))) >= 1


def test_compare_with_a_loss_of_theirs(train_options: Make, work: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs have option files in other folders, and find the file all the same; wherever the folder is moved."""
    home = work.parent / 'home'
    (home / 'theirs.py').write_text(LOSS)
    opt = comparison_options(train_options(imports=['theirs.py']))
    opt['train']['total_iter'] = opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = 2
    opt['compare'] = {'seeds': [0], 'methods': {'theirs': {'type': 'TheirLoss'}}}
    path = write_options(opt, home / 'x.yml')
    monkeypatch.setenv('PYTHONPATH', str(REPO))
    result = typed('compare', '-opt', str(path), cwd=work)
    assert result.returncode == 0, result.stderr
    assert '| theirs |' in result.stdout
    assert 'l_their' in next((work / 'experiments/tiny_theirs_seed0').glob('*.log')).read_text()
    written = config.read_options(work / 'experiments/tiny/options/tiny_theirs_seed0.yml')
    assert written['imports'] == [str(home / 'theirs.py')]

    home.rename(home.with_name('moved'))
    opt = config.read_options(home.with_name('moved') / 'x.yml')
    config.load_plugins(opt)
    comparison = read_comparison(opt)
    assert f'# protocol {comparison.protocol_hash}\n' in (
        work / 'experiments/tiny/options/tiny_theirs_seed0.yml').read_text()
    for trial in comparison.trials:
        assert trial.options['imports'] == [str(home.with_name('moved') / 'theirs.py')]
        refuse_other_options(trial, comparison.protocol_hash)


def test_compare_hands_on_what_the_command_line_names(train_options: Make, work: Path) -> None:
    (work / 'theirs.py').write_text(LOSS)
    opt = comparison_options(train_options())
    opt['compare']['methods'] = {'theirs': {'type': 'TheirLoss'}}
    opt = config.read_options(write_options(opt, work.parent / 'home/x.yml'))
    config.load_plugins(opt, ['theirs.py'])
    assert {tuple(trial.options['imports']) for trial in read_comparison(opt).trials} == {(str(work / 'theirs.py'), )}


def test_a_folder_without_init_and_a_file_that_changes_the_working_directory(
        train_options: Make, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'plain_folder').mkdir()
    (work / 'mover.py').write_text(f'import os\nos.chdir("/")\n{LOSS}')
    option_file(train_options, work, imports=['mover.py', 'plain_folder'])
    assert mipkd_main(['check', '-opt', 'x.yml']) == 2
    assert 'imports[1] (line ' in (message := capsys.readouterr().err)
    assert 'plain_folder is a folder without __init__.py: nothing in it was imported' in message
    assert Path.cwd() == work
    (work / 'plain_folder' / '__init__.py').touch()
    sys.modules.pop('plain_folder')
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
