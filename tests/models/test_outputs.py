"""Networks that return a list, a tuple or a dict: the error that names it, and ``output`` everywhere."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import as_parsed
from test_distill_model import assert_identical
from training import comparison_options, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.config.remedies import remedied
from mipkd_plugin.networks.outputs import OutputError, described, select_output

Make = Callable[..., dict[str, Any]]
ARCH = '''
import torch
from basicsr.archs.edsr_arch import EDSR
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Many(EDSR):
    def __init__(self, kind, num_feat=8, num_block=3):
        super().__init__(3, 3, num_feat, num_block, 2)
        self.kind = kind

    def forward(self, x):
        sr = super().forward(x)
        if self.kind == 'training' and not self.training:
            return sr
        return {'list': [x, sr], 'tuple': (sr, x.mean((1, 2, 3))), 'dict': {'loss': x.mean(), 'SR': sr, 'lr': x},
                'several': (sr / 2, sr), 'small': (x, x), 'none': None, 'training': (sr, x)}[self.kind]
'''


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the network Many in many.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    before = dict(ARCH_REGISTRY._obj_map)
    (tmp_path / 'many.py').write_text(ARCH)
    config.load_plugins(named=['many.py'])
    yield tmp_path
    sys.modules.pop('many', None)
    ARCH_REGISTRY._obj_map.clear()
    ARCH_REGISTRY._obj_map.update(before)


def many(kind: str, **more: Any) -> dict[str, Any]:
    return {'type': 'Many', 'kind': kind, **more}


def teacher_of(opt: dict[str, Any], kind: str) -> dict[str, Any]:
    """The same options, with the same weights in a teacher that returns more."""
    opt['teacher']['network'] = many(kind, **{key: value for key, value in opt['teacher']['network'].items()
                                              if key in ('num_feat', 'num_block')})
    return opt


def problems_of(opt: dict[str, Any], **kwargs: Any) -> list[config.Problem]:
    return config.check_options(opt, **{'is_train': True, 'probe': 'full', **kwargs}).problems


# --------------------------------------------------------------------------------------------- the check
@pytest.mark.parametrize(('kind', 'says', 'remedy', 'key'), [
    ('list', "Many returns a list of 2: 0: 1×3×8×8, 1: 1×3×16×16, and not an image alone", 'output: 1', 1),
    ('tuple', 'Many returns a tuple of 2: 0: 1×3×16×16, 1: 1, and not an image alone', 'output: 0', 0),
    ('dict', "Many returns a dict of 'loss': one number, 'SR': 1×3×16×16, 'lr': 1×3×8×8, and not an image alone",
     'output: SR', 'SR'),
    ('several', 'Many returns a tuple of 2: 0: 1×3×16×16, 1: 1×3×16×16, and not an image alone',
     'output: 1 %s (or 0, of the same size)', 1),
    ('training', 'Many returns a tuple of 2: 0: 2×3×16×16, 1: 2×3×8×8, and not an image alone', 'output: 0', 0)])
@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_the_error_names_what_is_returned_and_the_option(train_options: Make, role: str, kind: str, says: str,
                                                         remedy: str, key: int | str) -> None:
    opt = train_options(network_g=many(kind)) if role == 'student' else teacher_of(train_options(), kind)
    if (role, kind) == ('teacher', 'training'):
        assert problems_of(opt) == [], 'a teacher never trains'
        return
    problem, = problems_of(opt)
    place, home = ('network_g', 'beside network_g') if role == 'student' else ('teacher.network', 'in teacher')
    assert (problem.where, problem.what) == (place, says)
    assert problem.remedy == 'write ' + (remedy % home if '%' in remedy else f'{remedy} {home}')
    assert problem.fix == {'output' if role == 'student' else 'teacher.output': key}
    assert problems_of(remedied(opt, problem.fix)) == []


def test_outputs_without_an_image(train_options: Make) -> None:
    problem, = problems_of(train_options(network_g=many('small')))
    assert problem.remedy == 'none of it has the size of the image, 3×16×16: fix the arguments of this network'
    problem, = problems_of(train_options(network_g=many('none')))
    assert problem.what == 'Many returns nothing (None), and not an image alone'


@pytest.mark.parametrize(('kind', 'key', 'says', 'fix'), [
    ('tuple', 2, 'Many has no output 2: it returns a tuple of 2: 0: 1×3×16×16, 1: 1', 0),
    ('tuple', 'sr', "Many has no output 'sr': it returns a tuple of 2", 0),
    ('dict', 0, "Many has no output 0: it returns a dict of 'loss': one number, 'SR': ", 'SR'),
    ('dict', 'sr', "Many has no output 'sr': it returns a dict of", 'SR')])
@pytest.mark.parametrize('place', ['output', 'teacher.output'])
def test_a_wrong_key(train_options: Make, kind: str, key: int | str, says: str, fix: int | str, place: str) -> None:
    opt = train_options(network_g=many(kind)) if place == 'output' else teacher_of(train_options(), kind)
    problem, = problems_of(remedied(opt, {place: key}))
    assert problem.where == place
    assert problem.what.startswith(says)
    assert problem.fix == {place: fix}


@pytest.mark.parametrize('place', ['output', 'teacher.output'])
@pytest.mark.parametrize(('value', 'says'), [
    (0, 'is for a network that returns more than an image, and EDSR returns an image alone'),
    (1.5, 'must be a whole number or a key, or ~, not 1.5'), (True, 'must be a whole number or a key, or ~, not True')])
def test_an_output_that_makes_no_sense(train_options: Make, place: str, value: Any, says: str) -> None:
    opt = remedied(train_options(), {place: value})
    problem, = problems_of(opt)
    assert (problem.where, problem.what) == (place, says)
    if value == 0 and value is not False:
        assert problems_of(remedied(opt, problem.fix)) == []


def test_an_output_of_another_size(train_options: Make) -> None:
    problem, = problems_of(train_options(network_g=many('list'), output=0))
    assert 'Many turns a patch of 3×8×8 into (channels, height, width) = (3, 8, 8)' in problem.what


def test_models_that_do_not_read_it(train_options: Make) -> None:
    opt = train_options(network_g=many('tuple'), model_type='SRModel')
    del opt['teacher'], opt['train']['distill_opt']
    problem, = problems_of(opt)
    assert problem.fix == {'output': 0, 'model_type': 'AnySRModel'}
    assert problems_of(remedied(opt, problem.fix)) == []
    problem, = problems_of({**opt, 'output': 0})
    assert str(problem).startswith('output: SRModel does not read it\n')
    assert problem.fix == {'model_type': 'AnySRModel'}


# --------------------------------------------------------------------------------------------- the training
def state_after(opt: dict[str, Any], root: Path, steps: int = 2) -> Any:
    torch.manual_seed(0)
    model = build_model(as_parsed(opt, root))
    generator = torch.Generator().manual_seed(1)
    for iteration in range(1, steps + 1):
        model.feed_data({'lq': torch.rand(2, 3, 8, 8, generator=generator),
                         'gt': torch.rand(2, 3, 16, 16, generator=generator)})
        model.optimize_parameters(iteration)
    model.test()
    return {'net_g': model.net_g.state_dict(), 'ema': model.net_g_ema.state_dict(), 'output': model.output,
            'log': dict(model.get_current_log())}


@pytest.mark.parametrize(('kind', 'key'), [('list', 1), ('tuple', 0), ('dict', 'SR'), ('list', -1), ('training', 0)])
def test_training_is_that_of_the_network_without_the_rest(train_options: Make, tmp_path: Path, kind: str,
                                                          key: int | str) -> None:
    plain = train_options()
    wanted = state_after(copy.deepcopy(plain), tmp_path / 'a')
    opt = teacher_of(copy.deepcopy(plain), kind)
    opt['network_g'], opt['output'] = many(kind), key
    if kind != 'training':
        opt['teacher']['output'] = key
    assert_identical(state_after(opt, tmp_path / 'b'), wanted)


def test_train_resume_and_test(train_options: Make, work: Path) -> None:
    opt = teacher_of(train_options(network_g=many('dict'), output='SR'), 'tuple')
    opt['teacher']['output'] = 0
    opt['train']['exact_resume'] = True
    opt['logger']['use_tb_logger'] = False
    for name, total in (('whole', 4), ('parts', 2), ('parts', 4)):
        opt['name'], opt['train']['total_iter'] = name, total
        path = write_options(opt, work / f'{name}.yml')
        assert train(path, '--import', 'many.py', '--auto_resume') == 0
    whole, parts = (torch.load(work / f'experiments/{name}/models/net_g_4.pth') for name in ('whole', 'parts'))
    assert_identical(parts, whole)
    test = {key: opt[key] for key in ('scale', 'num_gpu', 'manual_seed', 'network_g', 'output')}
    test |= {'name': 'test', 'model_type': 'AnySRModel', 'datasets': {'test': opt['datasets']['val']},
             'path': {'pretrain_network_g': 'experiments/whole/models/net_g_4.pth', 'param_key_g': 'params_ema'},
             'val': {'save_img': True, 'suffix': None, 'metrics': opt['val']['metrics']}}
    path = write_options(test, work / 'test.yml')
    assert basicsr_main(['test', '-opt', str(path), '--import', 'many.py']) == 0
    assert 'psnr' in next((work / 'results/test').glob('test_*.log')).read_text()


def test_another_output_on_resume_is_a_change(train_options: Make, work: Path) -> None:
    opt = train_options(network_g=many('several'), output=0)
    opt['train']['exact_resume'] = True
    opt['train']['total_iter'] = 2
    path = write_options(opt, work / 'x.yml')
    assert train(path, '--import', 'many.py') == 0
    path = write_options({**opt, 'output': 1}, path)
    found = config.check_options(config.read_options(path), is_train=True, auto_resume=True).problems
    assert [problem.where for problem in found] == ['output']


def test_the_control_of_a_comparison_reads_it(train_options: Make, work: Path) -> None:
    opt = comparison_options(train_options(network_g=many('tuple'), output=0))
    comparison = read_comparison(config.read_options(write_options(opt, work / 'x.yml')))
    assert {(trial.method, trial.options['model_type'], trial.options['output']) for trial in comparison.trials} == {
        ('none', 'AnySRModel', 0), ('logits', 'DistillModel', 0), ('mipkd', 'DistillModel', 0)}


def test_taps_are_listed(train_options: Make, work: Path) -> None:
    path = write_options(train_options(network_g=many('tuple'), output=0), work / 'x.yml')
    assert mipkd_main(['taps', '-opt', str(path), '--import', 'many.py']) == 0


# --------------------------------------------------------------------------------------------- the hook
def test_the_last_choice_counts() -> None:
    net = ARCH_REGISTRY.get('Many')('several')
    for key in (0, 1):
        select_output(net, key)
    lq = torch.rand(1, 3, 4, 4)
    assert torch.equal(copy.deepcopy(net)(lq), net.forward(lq)[1])
    assert len(net._forward_hooks) == 1
    select_output(net, None)
    with pytest.raises(OutputError):
        net(lq)


def test_many_outputs_are_cut() -> None:
    assert described([torch.zeros(1)] * 12).endswith('7: 1 and 4 more')
    assert described({}) == 'an empty dict'
    assert described(5) == 'an object of int'
    assert described(('x', [1])) == 'a tuple of 2: 0: str, 1: list'
