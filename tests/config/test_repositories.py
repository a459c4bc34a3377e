"""Repositories of others: their networks in three lines, their copies of BasicSR, and networks of spandrel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import basicsr
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import REPO
from training import train, write_options

from mipkd_plugin import config
from mipkd_plugin.archs import supply
from mipkd_plugin.compat import repositories
from mipkd_plugin.config.registered import lookup

Make = Callable[..., dict[str, Any]]

NETWORK = '''
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class HatLike(nn.Module):
    def __init__(self, width, window_size=4, **kwargs):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 12, 3, padding=1))

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.layers(x), 2)
'''
SCAN = '''
import importlib
from pathlib import Path
modules = [importlib.import_module(f'hat.archs.{file.stem}') for file in Path(__file__).parent.glob('*_arch.py')]
'''
OLD_IMPORTS = '''
from basicsr.losses.losses import _reduction_modes
from basicsr.utils.matlab_functions import bgr2ycbcr, imresize, rgb2ycbcr
'''
SPANDREL = {
    'spandrel/__init__.py': 'LOADED = True\n',
    'spandrel/architectures/__init__.py': '',
    'spandrel/architectures/Small/__init__.py': 'from .arch import SmallNet\n\n__all__ = ["SmallArch", "SmallNet"]\n',
    'spandrel/architectures/Small/arch.py': NETWORK.replace('@ARCH_REGISTRY.register()', '').replace(
        'HatLike', 'SmallNet').replace('self, width', 'self, *, width').replace(', **kwargs', ''),
    'spandrel/architectures/EDSR/__init__.py': 'raise ImportError("EDSR is BasicSR\'s")\n__all__ = ["EDSR"]\n',
    'spandrel/architectures/Broken/__init__.py': 'import not_installed\n__all__ = ["BrokenNet"]\n',
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = dict(ARCH_REGISTRY._obj_map)
    modules = supply._modules
    modules.cache_clear()
    for name in [name for name in sys.modules if name.partition('.')[0] == 'spandrel']:
        monkeypatch.delitem(sys.modules, name)  # of an earlier test
    yield
    for name, module in list(sys.modules.items()):
        known = getattr(module, '__dict__', {})
        if str(tmp_path) in f'{known.get("__file__")} {known.get("__path__")}':  # a folder has no file
            del sys.modules[name]
    modules.cache_clear()
    ARCH_REGISTRY._obj_map.clear()
    ARCH_REGISTRY._obj_map.update(before)


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in of its shape."""
    monkeypatch.syspath_prepend(write(tmp_path / 'site', SPANDREL))


def messages(opt: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in config.check_options(opt, is_train=True).problems]


# ------------------------------------------------------------------------------------------- networks in three lines
@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('outermost', ['package', 'plain folder'])
def test_a_network_of_a_repository_takes_three_lines(outermost: str, role: str, train_options: Make,
                                                     tmp_path: Path) -> None:
    files = {'hat/archs/__init__.py': SCAN, 'hat/archs/hat_arch.py': OLD_IMPORTS + NETWORK}
    if outermost == 'package':
        files['hat/__init__.py'] = 'from .archs import *\n'
    write(tmp_path, files)
    network = {'type': 'HatLike', 'width': 4}
    opt = train_options(imports=['hat/archs/hat_arch.py'])
    if role == 'student':
        opt['network_g'] = network
    else:
        opt['teacher']['network'] = network
        weights = opt['teacher']['weights'] = str(tmp_path / 'hat.pth')
        namespace: dict[str, Any] = {}
        exec(NETWORK.replace('@ARCH_REGISTRY.register()', ''), namespace)  # noqa: S102  # to save its weights
        torch.save({'params': namespace['HatLike'](4).state_dict()}, weights)
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    opt['train']['total_iter'] = 1
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    assert sys.modules['hat.archs.hat_arch'].__file__ == str(tmp_path / 'hat/archs/hat_arch.py')


@pytest.mark.parametrize(('key', 'says'), [
    ('anything', None), ('window_sizes', "no argument 'window_sizes' -> did you mean 'window_size'?")])
def test_more_arguments_of_a_network_that_takes_any(key: str, says: str | None, train_options: Make,
                                                    tmp_path: Path) -> None:
    write(tmp_path, {'net.py': NETWORK})
    opt = train_options(imports=['net.py'], network_g={'type': 'HatLike', 'width': 4, key: 4})
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    config.load_plugins(config.read_options(str(write_options(opt, tmp_path / 'x.yml'))))
    found = messages(opt)
    assert found == [] if says is None else len(found) == 1
    assert all(str(says).partition(' -> ')[0] in problem for problem in found)


def test_keys_of_published_files_are_harmless(train_options: Make) -> None:
    opt = train_options()
    opt['datasets']['train']['task'] = 'SR'
    opt['datasets']['val']['task'] = 'SR'
    assert messages(opt) == []


# --------------------------------------------------------------------------------------------------------- compat
def test_functions_and_modules_are_where_basicsr_had_them() -> None:
    from basicsr.utils import color_util, matlab_functions

    assert matlab_functions.rgb2ycbcr is color_util.rgb2ycbcr
    assert matlab_functions.bgr2ycbcr is color_util.bgr2ycbcr
    assert repositories.matlab_functions_convert_colors() is False
    assert repositories.missing_modules_from_installed_basicsr() is False
    code = 'import mipkd_plugin, basicsr.losses.losses as l; assert l.GANLoss and l.L1Loss and l._reduction_modes'
    subprocess.run([sys.executable, '-c', code], check=True, env={**os.environ, 'PYTHONPATH': str(REPO)})


def test_an_own_module_named_otherwise_is_not_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        __import__('basicsr.no_such_module')


def copied_basicsr(folder: Path, archs: str = 'from basicsr.archs.edsr_arch import EDSR\n') -> Path:
    """An older copy of BasicSR, without SwinIRModel, ``version.py`` and most of its networks."""
    installed = Path(str(basicsr.__file__)).parent
    for file in installed.rglob('*.py'):
        name = file.relative_to(installed).as_posix()
        alone = name.startswith('archs/') and name.split('/')[1] not in ('__init__.py', 'arch_util.py', 'edsr_arch.py')
        if name in ('version.py', 'models/swinir_model.py', 'data/prefetch_dataloader.py') or alone:
            continue
        write(folder / 'basicsr', {name: file.read_text(encoding='utf-8')})
    optimizer = "optim_type == 'Adam':\n"
    base = folder / 'basicsr/models/base_model.py'
    assert optimizer in base.read_text()
    base.write_text(base.read_text().replace(optimizer, f'{optimizer}            optimizer = torch.optim.Adam(params, '
                                             "lr, **kwargs)\n        elif optim_type == 'AdamW':\n").replace(
                                                 'torch.optim.Adam(params, lr, **kwargs)\n        else',
                                                 'torch.optim.AdamW(params, lr, **kwargs)\n        else'))
    return folder


def command(*arguments: str, cwd: Path, first: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(first), str(REPO)])}
    return subprocess.run([sys.executable, '-m', 'mipkd_plugin', *arguments], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=240, check=False)


def test_a_repository_with_an_older_copy_of_basicsr_trains(train_options: Make, tmp_path: Path) -> None:
    repository = copied_basicsr(tmp_path / 'repository')
    opt = train_options(model_type='DistillModel')
    opt['train'].update(total_iter=2, optim_g={'type': 'AdamW', 'lr': 0.001}, distill_opt={'type': 'LogitsKDLoss'})
    opt['network_g'] = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2}  # the copy lacks it
    write_options(opt, tmp_path / 'x.yml')
    result = command('train', '-opt', 'x.yml', cwd=tmp_path, first=repository)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'experiments/tiny/models/net_g_2.pth').is_file()


def test_a_copy_that_needs_what_is_not_installed(train_options: Make, tmp_path: Path) -> None:
    repository = copied_basicsr(tmp_path / 'repository')
    write(repository / 'basicsr/archs', {'mamba_arch.py': 'import a_kernel.ops\n'})
    write_options(train_options(), tmp_path / 'x.yml')
    result = command('train', '-opt', 'x.yml', cwd=tmp_path, first=repository)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
    assert result.stderr.strip().endswith(
        f"basicsr cannot be imported: ModuleNotFoundError: No module named 'a_kernel' ({repository}/basicsr/archs/"
        'mamba_arch.py, line 1); install a_kernel')
    assert not (tmp_path / 'experiments').exists()


# ------------------------------------------------------------------------------------------------------- spandrel
@pytest.mark.usefixtures('spandrel')
def test_a_network_of_spandrel_trains_by_its_name(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(network_g={'type': 'SmallNet', 'width': 4})
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    opt['train']['total_iter'] = 1
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    assert 'SmallNet' not in ARCH_REGISTRY


@pytest.mark.usefixtures('spandrel')
def test_what_is_registered_comes_first_and_nothing_is_imported_before_it_is_needed() -> None:
    assert {'SmallNet', 'EDSR', 'BrokenNet'} <= set(supply.supplied_names())
    assert lookup(ARCH_REGISTRY, 'EDSR').__module__ == 'basicsr.archs.edsr_arch'
    assert ARCH_REGISTRY.get('EDSR').__module__ == 'basicsr.archs.edsr_arch'
    assert 'spandrel' not in sys.modules
    assert ARCH_REGISTRY.get('SmallNet').__module__ == 'spandrel.architectures.Small.arch'
    with pytest.raises(KeyError):
        ARCH_REGISTRY.get('NoSuchNet')


@pytest.mark.usefixtures('spandrel')
@pytest.mark.parametrize(('network', 'says'), [
    ({'type': 'SmallNet'}, 'network_g.width: is missing, and SmallNet needs it'),
    ({'type': 'SmallNett', 'width': 4}, "network_g.type: there is no network 'SmallNett' -> did you mean 'SmallNet'?")])
def test_mistakes_at_a_network_of_spandrel(network: dict[str, Any], says: str, train_options: Make) -> None:
    opt = train_options(network_g=network)
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    found = messages(opt)
    assert len(found) == 1
    assert all(part in found[0] for part in says.split(' -> '))


@pytest.mark.usefixtures('spandrel')
def test_a_broken_installation_is_named(train_options: Make, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert train(write_options(train_options(network_g={'type': 'BrokenNet'}), tmp_path / 'x.yml')) == 2
    assert ("the network BrokenNet is in an installed package that cannot be imported: ModuleNotFoundError: No module "
            "named 'not_installed'; install what is missing, or the package again: pip install "
            "'mipkd-plugin[teacher]'") in capsys.readouterr().err


def test_without_spandrel_the_message_names_the_extra(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, '_modules', dict)
    found = messages(train_options(network_g={'type': 'SPAN', 'num_in_ch': 3, 'num_out_ch': 3}))
    assert len(found) == 1
    assert 'network_g.type: the network SPAN is one of spandrel, which is not installed' in found[0]
    assert "install it: pip install 'mipkd-plugin[teacher]'" in found[0]


def test_the_names_of_spandrel_are_right() -> None:
    pytest.importorskip('spandrel')
    assert set(supply.IN_SPANDREL) <= set(supply.supplied_names())
    for name in ('SPAN', 'SAFMN', 'RealPLKSR'):
        assert lookup(ARCH_REGISTRY, name).__name__ == name
