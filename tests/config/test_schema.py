"""``mipkd check --schema``: what an editor completes, explains and refuses is what the check knows."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, change
from hypothesis import given, settings
from hypothesis import strategies as st
from training import comparison_options, typed, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare.checks import ABLATE, COMPARE
from mipkd_plugin.compare.methods import METHOD
from mipkd_plugin.config import keys
from mipkd_plugin.config.data_set_tables import DATA_SETS
from mipkd_plugin.config.degradation_keys import TABLES
from mipkd_plugin.config.key_texts import TEXTS
from mipkd_plugin.config.schema_components import of_signature, versions
from mipkd_plugin.utils.docstrings import arguments
from mipkd_plugin.utils.ranges import OddSize, Share, Taps, checked

jsonschema = pytest.importorskip('jsonschema', reason='jsonschema is not installed: pip install jsonschema')
Make = Callable[..., dict[str, Any]]
FILE = REPO / 'docs' / 'option_file.schema.json'
OPTIONS = sorted((REPO / 'options').glob('*.yml'))
LINE = '# yaml-language-server: $schema=../docs/option_file.schema.json\n'


def validator_of(text: str) -> Any:
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope='module')
def text() -> str:
    """As it is typed, in a process of its own: tests of this one register classes."""
    typed = 'import sys; from mipkd_plugin.cli import mipkd_main; sys.exit(mipkd_main(["check", "--schema"]))'
    return subprocess.run([sys.executable, '-c', typed], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope='module')
def validator(text: str) -> Any:
    return validator_of(text)


def wrong(validator: Any, opt: Any) -> list[str]:
    """YAML paths of what the schema refuses, with the message."""
    return [f'{".".join(map(str, error.absolute_path))}: {error.message}' for error in validator.iter_errors(opt)]


# ------------------------------------------------------------------------------------------------- the committed file
def test_the_committed_schema_is_up_to_date(text: str) -> None:
    made, committed = json.loads(text), json.loads(FILE.read_text(encoding='utf-8'))
    if made['$comment'].split(', ')[1:] != committed['$comment'].split(', ')[1:]:
        pytest.skip(f'made with other versions: {committed["$comment"]}; here {versions("torch", "spandrel")}')
    assert made == committed, 'run: mipkd check --schema > docs/option_file.schema.json'
    assert FILE.read_text(encoding='utf-8') == text


def test_the_committed_schema_knows_no_plugin_of_this_machine() -> None:
    assert not {'SPKDLoss', 'MyLoss'} & set(json.loads(FILE.read_text(encoding='utf-8'))['$defs'])


@pytest.mark.parametrize('path', OPTIONS, ids=lambda path: path.name)
def test_every_option_file_is_valid_and_names_the_schema(path: Path, validator: Any) -> None:
    assert path.read_text(encoding='utf-8').startswith(LINE)
    assert (path.parent / '../docs/option_file.schema.json').resolve() == FILE
    assert wrong(validator, dict(config.read_options(path, None))) == []
    # an editor resolves !!float only in front of what YAML 1.2 calls a float
    for line in path.read_text(encoding='utf-8').splitlines():
        assert '!!float' not in line or 'e' in line.split('!!float')[1].split('#')[0], line


# --------------------------------------------------------------------------------------------------------- the tables
def tables() -> Iterator[tuple[str, dict[str, keys.Key]]]:
    yield '', keys.TOP
    yield from keys.SECTIONS.items()
    yield 'teacher', keys.TEACHER
    yield 'teachers', keys.OF_SEVERAL
    yield 'train.distill_opt', keys.OF_LOSS
    for table in DATA_SETS.values():
        yield 'datasets.*', table
    for sections in TABLES.values():
        yield from sections.items()
    yield 'compare', COMPARE
    yield 'compare.ablate', ABLATE
    yield 'compare.methods.*', METHOD


def test_every_key_has_a_text_and_no_text_is_left_over() -> None:
    known = {f'{path}.{key}' if path else key for path, table in tables() for key in table}
    assert set(TEXTS) == known | {'compare'}


PLAIN = (st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
         | st.text(max_size=3) | st.sampled_from(['auto', 'cpu', 'float32', 'keep', 'mean', 'y']))
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.text(max_size=2), inner, max_size=2), max_leaves=3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(VALUES)
def test_a_schema_refuses_no_value_that_the_check_takes(value: Any) -> None:
    kinds = [entry.kind for _, table in tables() for entry in table.values()] + list(keys.ARGUMENTS.values())
    for kind in {kind.name: kind for kind in kinds}.values():
        if kind.fits(value):
            assert jsonschema.Draft202012Validator(kind.schema).is_valid(value), (kind.name, value)


@pytest.mark.parametrize(('kind', 'value'), [
    (keys.INTEGER, 0), (keys.INTEGER, True), (keys.FLAG, 1), (keys.TEXT, ''), (keys.FRACTION, 1), (keys.GPUS, 'all'),
    (keys.PREFETCH, 'gpu'), (keys.POSITIVE, 0), (keys.optional(keys.INTEGER), 'x'), (keys.NUMBERS, ['x']),
    (keys.SCALE, 65), (keys.ARGUMENTS['lr'], 0), (keys.ARGUMENTS['reduction'], 'none')])
def test_a_schema_refuses_what_the_check_refuses(kind: keys.Kind, value: Any) -> None:
    assert not kind.fits(value)
    assert not jsonschema.Draft202012Validator(kind.schema).is_valid(value)


# ---------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(('where', 'value'), [
    ('train.total_itr', 5), ('logger.gradient_frq', 5), ('logger.gradient_freq', 0), ('nme', 'x'), ('scale', 'two'),
    ('network_g.num_feet', 3), ('network_g.num_in_ch', ...), ('network_g.type', 'EDRS'), ('teacher.cash', 'memory'),
    ('teacher.dtype', 'float8'), ('teacher.weights', ...), ('teacher.network.num_blok', 3),
    ('model_type', 'DistilModel'),
    ('train.distill_opt.feat_weight', -1), ('train.distill_opt.mask_type', '4d'), ('train.distill_opt.taps', []),
    ('train.distill_opt.taps', [['body.1']]), ('train.distill_opt.kernel_size', 4), ('train.distill_opt.wieght', 4),
    ('train.distill_opt.type', 'MiPKDLos'), ('train.distill_opt', []), ('train.distill_opt', ...),
    ('train.distill', {'untill': 0.5}), ('train.distill', {'until': 2}), ('train.distill', {'fade': 'slow'}),
    ('train.pixel_opt.type', 'L1Los'), ('train.pixel_opt.reduction', 'none'), ('train.pixel_opt.loss_wieght', 1),
    ('train.optim_g.lr', '1e-4'), ('train.optim_g.lr', ...), ('train.optim_g.type', 'Adma'), ('train.optim_g.beta', 1),
    ('train.scheduler.type', 'MultiStep'), ('train.scheduler.milestones', 5), ('train', ...), ('path', ...),
    ('datasets.train.gt_siz', 48), ('datasets.train.gt_size', 0), ('datasets.train.type', 'PairedImagesDataset'),
    ('datasets.train.io_backend.type', 'memcached'), ('datasets.train.batch_size_per_gpu', ...),
    ('datasets.trian', {}),
    ('datasets.val.dataroot_lq', ...), ('datasets.train.crops', 5), ('datasets.train', ...),
    ('val.metrics.psnr.crop_bordr', 2), ('val.metrics.psnr.type', 'psnr'), ('val.metrics.psnr.better', 'more'),
    ('imports', 'my.py'), ('compare', {'seeds': ['a'], 'methods': {}}),
])
def test_a_mistake_is_marked(train_options: Make, validator: Any, where: str, value: Any) -> None:
    opt = train_options()
    opt['train']['distill_opt']['kernel_size'] = 3
    assert wrong(validator, opt) == []
    change(opt, where, value)
    assert wrong(validator, opt)


def test_a_comparison(train_options: Make, validator: Any) -> None:
    opt = comparison_options(train_options())
    opt['compare']['methods']['cheap'] = {
        'losses': [{'type': 'MiPKDLoss'}, {'type': 'LogitsKDLoss'}], 'distill': {'until': 0.5, 'fade': 'linear'},
        'teacher': {'dtype': 'bfloat16'}, 'crops': 64}
    assert wrong(validator, opt) == []
    for where, value in (('compare.seed', [0]), ('compare.methods.none', {'type': 'LogitsKDLoss'}),
                         ('compare.methods.cheap.crop', 5), ('compare.methods.cheap.teacher.weights', 'x'),
                         ('compare.methods.logits.weight', 1), ('compare.methods.cheap.distill.untill', 1),
                         ('compare.ablate', {'method': 'mipkd', 'option': {}})):
        other = copy.deepcopy(opt)
        change(other, where, value)
        assert wrong(validator, other), where


# ------------------------------------------------------------------------------------------------------ no false alarm
def test_what_others_write_is_left_alone(train_options: Make, validator: Any) -> None:
    opt = train_options(model_type='HATModel', imports=['hat.py'], my_key=3, network_d={'type': 'TheirNet'})
    opt['network_g'] = {'type': 'HAT2', 'anything': [1, 2]}
    opt['train'].update(distill_opt={'mine': 1}, degradation={'p': 1}, optim_d={'type': 'Lion'})
    opt['train']['optim_g'] = {'type': 'AdamW', 'lr': 1e-4}
    opt['datasets']['train'] = {**opt['datasets']['train'], 'type': 'MyDataset', 'whatever': 5}
    assert wrong(validator, opt) == []
    opt = train_options(imports=['hat.py'])
    opt['network_g'] = {'type': 'HAT2', 'anything': [1, 2]}
    opt['train']['distill_opt'] = {'type': 'NewLoss', 'gamma': 3}
    assert wrong(validator, opt) == []
    opt = train_options(model_type='SRGANModel', network_d={'type': 'UNetDiscriminatorSN', 'num_in_ch': 3})
    opt['train'].update(gan_opt={'type': 'GANLoss'}, optim_d={'type': 'Adam', 'lr': 1e-4}, net_d_iters=1)
    assert wrong(validator, opt) == []


ODD = (0, -1, 1, 2, 1.5, True, False, None, 'x', [], [1], {}, {'type': 'L1Loss'}, [['body.0', 'body.0']])


def test_the_schema_takes_all_that_the_check_takes(train_options: Make, validator: Any) -> None:
    """Options with one entry changed or gone: what the check has nothing against, the schema has nothing against."""
    own, draw, taken = train_options(), random.Random(0), 0
    own['train'].update(distill={'until': 0.5, 'fade': 'linear'})
    for _ in range(250):
        opt = copy.deepcopy(own)
        section = opt
        while True:
            key = draw.choice(list(section))
            if not isinstance(section[key], dict) or draw.random() < 0.1:
                break
            section = section[key]
        if draw.random() < 0.2:
            del section[key]
        else:
            section[key] = draw.choice(ODD)
        if not config.check_options(config.Options(opt), is_train='train' in opt, files=False, probe='none').problems:
            taken += 1
            assert wrong(validator, opt) == [], (key, section.get(key))
    assert taken > 25


# ------------------------------------------------------------------------------------------------------- the arguments
class Example:
    """A class.

    Args:
        ratio: How much.
        sizes: Which.
    """

    @checked
    def __init__(self, ratio: Share = 0.5, size: OddSize = 3, taps: Taps | None = None, sizes: list[int] | None = None,
                 callback: Callable[..., Any] = print) -> None:
        """Nothing."""


def test_arguments_come_from_annotations_and_docstrings() -> None:
    found = of_signature(Example)
    assert found['additionalProperties'] is False
    assert found['properties']['ratio'] == {'type': 'number', 'minimum': 0, 'maximum': 1, 'default': 0.5,
                                            'description': 'How much.'}
    assert found['properties']['size']['not'] == {'multipleOf': 2}
    assert found['properties']['sizes']['description'] == 'Which.'
    assert 'default' not in found['properties']['callback']


def test_docstrings_of_torch_and_basicsr() -> None:
    from basicsr.archs.edsr_arch import EDSR
    from torch.optim import Adam

    assert list(arguments(EDSR))[:2] == ['num_in_ch', 'num_out_ch']
    assert arguments(EDSR)['num_in_ch'] == ('Channel number of inputs.', 'int')
    assert {'lr', 'betas', 'eps', 'weight_decay', 'amsgrad'} <= set(arguments(Adam))
    assert arguments(lambda: None) == {}


# --------------------------------------------------------------------------------------------------------- the command
PLUGIN = '''
from mipkd_plugin import DistillationLoss, register
from basicsr.utils.registry import LOSS_REGISTRY

@register(LOSS_REGISTRY)
class SchemaKDLoss(DistillationLoss):
    """Mine.

    Args:
        strength: How strong it is.
    """

    def __init__(self, strength: float = 2.0) -> None:
        super().__init__()

    def forward(self, step):
        return {'l_x': step.student.output.mean()}
'''


def test_plugins_are_in_the_schema_of_their_file(train_options: Make, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(PLUGIN.replace('from mipkd_plugin import DistillationLoss, register',
                                                     'from mipkd_plugin import DistillationLoss\n'
                                                     'from mipkd_plugin.utils.registry import register'))
    opt = train_options(imports=['mine.py'])
    opt['train']['distill_opt'] = {'type': 'SchemaKDLoss', 'strength': 3.0}
    write_options(opt, tmp_path / 'o.yml')
    texts = []
    for arguments_ in (['--import', 'mine.py'], ['-opt', 'o.yml']):
        done = typed('check', '--schema', *arguments_, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, '')
        texts.append(done.stdout)
    assert not list(tmp_path.glob('__pycache__'))
    validator = validator_of(texts[0])
    assert json.loads(texts[0])['$defs']['distillation_loss.SchemaKDLoss']['properties']['strength'] == {
        'type': 'number', 'default': 2.0, 'description': 'How strong it is.'}
    for other in map(validator_of, texts):
        assert wrong(other, opt) == []
        opt['train']['distill_opt']['strenght'] = 1
        assert wrong(other, opt)
        del opt['train']['distill_opt']['strenght']
    opt['train']['distill_opt']['type'] = 'SchemaKDLos'  # all imports are known: a name that is not there is a mistake
    assert wrong(validator, opt)


def test_a_plugin_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert mipkd_main(['check', '--schema', '--import', 'nowhere.py']) == 2
    written = capsys.readouterr()
    assert written.out == ''
    assert 'nowhere.py does not exist' in written.err


def test_without_option_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['check']) == 2
    assert '-opt FILE.yml is missing' in capsys.readouterr().err
