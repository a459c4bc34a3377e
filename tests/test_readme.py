"""What the README tells people to type is what the commands understand."""

from __future__ import annotations

import inspect
import re
import shlex
from typing import Any

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO, STUDENTS, TEACHERS

from mipkd_plugin import cli
from mipkd_plugin.compare.report import markdown_table
from mipkd_plugin.compare.results import read_rows
from mipkd_plugin.losses import DistillationLoss, KRNetLoss, MiPKDLoss

README = (REPO / 'README.md').read_text(encoding='utf-8')


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', README, flags=re.S)


def commands() -> list[list[str]]:
    lines = [line for block in blocks('bash') for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_nothing_is_left_to_fill_in() -> None:
    assert '@@' not in README


def test_first_code_comes_early() -> None:
    assert README[:README.index('```')].count('\n') < 25


@pytest.mark.parametrize('command', [c for c in commands() if c[0] in ('basicsr', 'mipkd', 'torchrun')], ids=' '.join)
def test_commands_parse_and_their_option_files_exist(command: list[str]) -> None:
    if command[0] == 'torchrun':
        assert command[2:4] == ['-m', 'mipkd_plugin']
        command = ['basicsr', *command[4:]]
    parser = cli._basicsr_parser() if command[0] == 'basicsr' else cli._mipkd_parser()
    args = parser.parse_args(command[1:])
    if getattr(args, 'opt', None):
        assert (REPO / args.opt).is_file()


def test_make_targets_exist() -> None:
    makefile = (REPO / 'Makefile').read_text()
    targets = {c[1] for c in commands() if c[0] == 'make'} | set(re.findall(r'`make (\w+)`', README))
    assert {'demo', 'test'} <= targets
    for target in targets:
        assert re.search(rf'^{target}:', makefile, flags=re.M), target


def test_named_option_files_exist() -> None:
    for pattern in re.findall(r'`(options/[^`]+\.yml)`', README):
        choices = re.findall(r'\{([^}]*)\}', pattern)
        names = [pattern]
        for choice in choices:
            names = [name.replace('{' + choice + '}', value) for name in names for value in choice.split(',')]
        for name in names:
            assert list(REPO.glob(name)), name


def test_plain_loop_runs_as_printed() -> None:
    code = next(block for block in blocks('python') if 'Step.run' in block)
    scope: dict[str, Any] = {'student': build_network(STUDENTS['EDSR']), 'teacher': build_network(TEACHERS['EDSR']),
                             'loader': [(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16))] * 2}
    exec(compile(code, 'README.md', 'exec'), scope)
    assert scope['iteration'] == 2
    assert torch.isfinite(scope['loss'])


def test_loop_with_a_meta_step_runs_as_printed() -> None:
    plain, meta = (next(block for block in blocks('python') if name in block) for name in ('Step.run', 'StepPlan.make'))
    scope: dict[str, Any] = {'student': build_network(STUDENTS['EDSR']), 'teacher': build_network(TEACHERS['EDSR']),
                             'loader': [(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16))] * 5}
    setup, loop = plain[:plain.index('for iteration')], plain[plain.index('    terms = kd(step)'):]
    exec('from mipkd_plugin import KRNetLoss, StepPlan\n' + setup.replace(
        'kd = MiPKDLoss(taps=3, latent_channels=32)', 'kd = KRNetLoss(taps=3)'), scope)
    generators = [p.detach().clone() for p in scope['kd'].self_trained_parameters()]
    exec(meta[meta.index('for iteration'):] + loop, scope)
    assert torch.isfinite(scope['loss'])
    assert not any(torch.equal(a, b) for a, b in zip(generators, scope['kd'].self_trained_parameters()))


def test_two_line_model_works_as_printed() -> None:
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import Registry

    from mipkd_plugin import DistillMixin
    code = next(block for block in blocks('python') if 'DistillMixin' in block)
    registry = Registry('test')
    exec(code, {'MODEL_REGISTRY': registry, 'DistillMixin': DistillMixin, 'HATModel': SRModel})
    assert issubclass(registry.get('HATDistillModel'), SRModel)


def test_yaml_examples_are_valid_options() -> None:
    text = blocks('yaml')[0].replace(', ...}', '}')
    options = yaml.safe_load(text)
    distill = dict(options['train']['distill_opt'])
    assert distill.pop('type') == 'MiPKDLoss'
    MiPKDLoss(**distill)
    taps = yaml.safe_load(blocks('yaml')[1])['taps']
    assert all(len(pair) == 2 for pair in taps)


def test_options_of_mipkd_named_in_the_text_exist() -> None:
    sentence = README[README.index('each such choice is an option'):]
    names = re.findall(r'`(\w+)`', sentence[:sentence.index('\n## ')])
    assert len(names) >= 8
    assert set(names) <= set(inspect.signature(MiPKDLoss).parameters)


def test_options_of_krnets_named_in_the_text_exist() -> None:
    sentence = README[README.index('all that is our choice is an option'):]
    names = re.findall(r'`(\w+)`', sentence[:sentence.index('.\n')])
    assert set(names) == set(inspect.signature(KRNetLoss).parameters) - {'taps', 'momentum', 'loss_weight'}


COMPARISONS = re.findall(r'<!-- (compare_\w+) -->', README)


def test_there_are_tables_to_check() -> None:
    assert {'compare_EDSR_x2_small', 'compare_EDSR_x2_depth', 'compare_EDSR_x2_compound'} <= set(COMPARISONS)


@pytest.mark.parametrize('name', COMPARISONS)
def test_tables_are_those_of_the_results(name: str) -> None:
    table = README[README.index(f'<!-- {name} -->'):README.index(f'<!-- /{name} -->')].partition('\n')[2]
    assert table == markdown_table(read_rows(REPO / 'experiments' / name / 'results.csv'))


def test_compare_block_as_printed_names_losses_and_options_that_exist() -> None:
    compare = next(yaml.safe_load(block) for block in blocks('yaml') if block.startswith('compare:'))['compare']
    for losses in compare['methods'].values():
        for loss in losses if isinstance(losses, list) else [losses]:
            arguments = dict(loss)
            LOSS_REGISTRY.get(arguments.pop('type'))(**arguments)
    assert compare['ablate']['method'] in compare['methods']


def test_all_losses_are_in_the_table_of_methods() -> None:
    names = {name for name, cls in LOSS_REGISTRY
             if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.')}
    section = README[README.index('## Methods'):README.index('## Comparing methods')]
    assert set(re.findall(r'^\| `(\w+)`', section, flags=re.M)) == names
