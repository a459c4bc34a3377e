"""Option files that would harm: they take time or memory, run code, or lead out of the folders of the runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from faults.harness import BadInput

LEADS_OUT = 'and a run is one folder in experiments/ or results/'


def file(content: str | bytes) -> Callable[[Path], object]:
    """Write ``hostile.yml``."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / 'hostile.yml').write_bytes(data)


def text(name: str, content: str | bytes, where: str, *says: str) -> BadInput:
    """A file that is refused as it is read."""
    return BadInput(name, where, says, spoil=file(content), arguments=('-opt', 'hostile.yml'), remedy=False)


def forced(name: str, entry: str, where: str, *says: str) -> BadInput:
    return BadInput(name, where, says, arguments=('--force_yml', entry), remedy=False)


def named(name: str, value: object, says: str, fixed: str, spoil: Callable[[Path], object] = lambda folder: None,
          **rest: object) -> BadInput:
    """A name of a run."""
    return BadInput(name, 'name', (says, f'write name: {fixed}'), {'name': value, **rest}, spoil)


def data(folder: Path) -> None:
    """Data of the user in a folder of ``experiments``, and the published weights."""
    for name in ('experiments/mine', 'experiments/pretrained_models', 'tb_logger/mine2', 'results/mine3'):
        (folder / name).mkdir(parents=True)
        (folder / name / 'data.txt').write_text('years of work')
    (folder / 'experiments/notes').write_text('a file')


BOMB = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{after}: &{after} [{", ".join([f"*{before}"] * 9)}]\n' for before, after in zip('abcdefgh', 'bcdefghi'))
DEEP = ''.join(f'{" " * level}k:\n' for level in range(200)) + f'{" " * 200}1\n'

FILES = [
    text('nine lines of aliases', BOMB, 'hostile.yml (line 5)', 'more than 50,000 entries', 'aliases'),
    text('1,500 brackets', 'a: ' + '[' * 1500 + ']' * 1500, 'hostile.yml (line 1)', 'more than 50 levels'),
    text('200 levels of indentation', DEEP, 'hostile.yml (line 50)', 'more than 50 levels'),
    text('100,000 brackets that stay open', 'a: ' + '[' * 100_000, 'hostile.yml', 'more than 50 levels'),
    text('NUL', 'name: x\nscale: \0\n', 'hostile.yml (line 2)', 'the character U+0000', 'remove this character'),
    text('terminal codes', 'name: \x1b[31mred\n', 'hostile.yml (line 1)', 'the character U+001B'),
    text('10 MB', 'a: 1\n' * 2_000_000, '-opt', 'longer than 256 KB'),
    text('not UTF-8', 'name: Größe\n'.encode('latin-1'), '-opt', 'cannot read hostile.yml: it is not a text file'),
    text('python/object/apply', 'a: 1\nb: !!python/object/apply:os.system ["touch canary"]\n', 'b (line 2)',
         'the tag !!python/object/apply:os.system would build an arbitrary Python object'),
    text('python/name', 'b: !!python/name:os.system\n', 'b (line 1)', 'the tag !!python/name:os.system'),
    text('tag on a key', '? !!python/object/apply:os.getcwd []\n: 1\n', 'file (line 1)', 'a list or a block as a key'),
    text('binary', 'b: !!binary YWJj\n', 'b (line 1)', 'the tag !!binary'),
    text('set', 'b: !!set {x, y}\n', 'b (line 1)', 'the tag !!set'),
    text('anchor in itself', 'a: &x {b: *x}\n', 'a.b (line 1)', 'refers to itself'),
    text('list as a key', 'a: 1\n? [1, 2]\n: 3\n', 'file (line 2)', 'a list or a block as a key', 'write a name'),
    text('number as a key', 'datasets:\n  1: {}\n', 'datasets.1 (line 2)', 'read as a number', "write '1':, in quotes"),
    text('on as a key', 'on: x\n', 'on (line 1)', 'the key is read as true or false', "write 'on':, in quotes"),
    text('date as a value', 'name: 2024-01-31\n', 'name (line 1)', 'is read as a date', "write '2024-01-31', in q"),
    text('number of 200 digits', f'scale: {"9" * 200}\n', 'scale (line 1)', 'more than 64 bits', 'smaller number'),
    text('number of 5,000 digits', f'scale: {"9" * 5000}\n', 'scale (line 1)', 'is no int'),
    text('half of a pair', 'name: "\\ud800"\n', 'name (line 1)', 'holds a character that no text can have'),
    text('NUL in a text', 'name: "a\\0b"\n', 'name (line 1)', 'holds a character that no text can have'),
    text('bool that is none', 'a: !!bool maybe\n', 'a (line 1)', "'maybe' is no bool"),
    text('two documents', 'a: 1\n---\nb: 2\n', 'hostile.yml (line 2', 'expected a single document'),
    text('web page', '<!DOCTYPE html>\n<html><body>Not found</body></html>\n', 'hostile.yml', 'is not an option file'),
    BadInput('folder as option file', '-opt', ('cannot read HR: Is a directory', ), arguments=('-opt', 'HR'),
             remedy=False),
    BadInput('option file with 300 letters', '-opt', ('File name too long', '(300 characters)'),
             arguments=('-opt', 'x' * 300), remedy=False),
    BadInput('endless option file', '-opt', ('/dev/zero is longer than 256 KB', ), arguments=('-opt', '/dev/zero'),
             remedy=False),
]
FORCED = [
    forced('force_yml with code in a list', 'train:ema_decay=[__import__("os").system("touch canary")]',
           '--force_yml train:ema_decay=[__import__', 'cannot be read', 'write [1, 2] for a list'),
    forced('force_yml with code in a key', 'x"];__import__("os").system("touch canary");opt["name=1',
           '--force_yml x"];__import__', 'is not a path of keys', 'write a:b=value'),
    forced('force_yml with bytes of another encoding', f'name={os.fsdecode(bytes([0xff]))}', '--force_yml name=',
           'cannot be read'),
    forced('force_yml into a block that is not there', 'train:distill:until=0.5', '--force_yml train:distill:until=0.5',
           "there is no 'train.distill' in the option file", 'write the block distill into the option file'),
    forced('force_yml into a misspelled block', 'trian:total_iter=5', '--force_yml trian', "did you mean 'train'?"),
    forced('force_yml with 200 digits', f'scale={"9" * 200}', '--force_yml scale=', 'cannot be read'),
    forced('force_yml with 1,500 brackets', f'val={"[" * 1500}', '--force_yml val=', 'cannot be read'),
]
NAMES = [
    named('name that climbs', '../datasets', f"'../datasets' has a slash, {LEADS_OUT}", 'datasets'),
    named('absolute name', '/tmp/mine', "'/tmp/mine' has a slash", 'tmp_mine'),
    named('name that climbs from within', 'x/../../w', 'has a slash', 'x_.._.._w'),
    named('name with a folder', 'mine/run1', 'has a slash', 'mine_run1'),
    named('name with a backslash', 'mine\\run1', 'has a slash', 'mine_run1'),
    named('dots as a name', '..', 'names a folder that is no run', 'run'),
    named('dot as a name', '.', 'names a folder that is no run', 'run'),
    named('folder of the weights as a name', 'pretrained_models', 'names a folder that is no run',
          'pretrained_models_run', data),
    named('folder of the user as a name', 'mine', 'exists and is no run: BasicSR would rename it to mine_archived_…',
          'mine_1', data),
    named('file as a name', 'notes', 'exists and is no run', 'notes_1', data),
    named('folder of the user in tb_logger', 'mine2', 'exists and is no run', 'mine2_1', data),
    named('name of 300 letters', 'x' * 300, 'has 300 characters, more than 150', 'x' * 40),
    named('name with terminal codes', 'a\x1b[31mb\nc', 'has a character that is not printed', 'a_31mb_c'),
    BadInput('folder of the user in results', 'name', ('exists and is no run', 'write name: mine3_1'),
             {'name': 'mine3'}, data, command='test'),
    BadInput('data set that climbs', 'datasets.test.name', ('leads out of the folder of the run', 'write name: HR'),
             {'datasets.test.name': '../../../HR', 'val.save_img': True}, command='test'),
    BadInput('data set with an absolute name', 'datasets.test.name', ('leads out', 'write name: tmp_x'),
             {'datasets.test.name': '/tmp/x', 'val.save_img': True}, command='test'),
    BadInput('suffix that climbs', 'val.suffix', ("'/../../../x' has a slash", 'write suffix: x'),
             {'val.suffix': '/../../../x', 'val.save_img': True}, command='test'),
]
PATHS = [
    BadInput('memcached', 'datasets.train.io_backend', ('runs the file mc.py of the folder sys_path',
                                                        'write io_backend: {type: disk}'),
             {'datasets.train.io_backend': {'type': 'memcached', 'server_list_cfg': 'a', 'client_cfg': 'b',
                                            'sys_path': '.'}}),
    BadInput('weights of an unknown user', 'teacher.weights', ('does not exist; looked for ', '~nosuchuser/x.pth'),
             {'teacher.weights': '~nosuchuser/x.pth'}, remedy=False),
    BadInput('data of an unknown user', 'datasets.train.dataroot_gt', ('~nosuchuser/HR does not exist', ),
             {'datasets.train.dataroot_gt': '~nosuchuser/HR'}, remedy=False),
    BadInput('weights with a name of 300 letters', 'teacher.weights', ('does not exist', '(300 characters)'),
             {'teacher.weights': 'x' * 300}, remedy=False),
    BadInput('data with a name of 300 letters', 'datasets.val.dataroot_lq', ('does not exist', ),
             {'datasets.val.dataroot_lq': 'x' * 300}, remedy=False),
    BadInput('plug-in with a name of 300 letters', 'imports[0]', ('does not exist', ),
             {'imports': ['x' * 300 + '.py']}, remedy=False),
    BadInput('key that is a block', 'path.param_key_g', ('must be a string, or ~, not {}', 'write param_key_g: params'),
             {'path.param_key_g': {}, 'path.pretrain_network_g': None}),
    BadInput('student that is a list', 'path.pretrain_network_g', ('must be a string, or ~', ),
             {'path.pretrain_network_g': ['teacher.pth']}),
]
LARGE = [
    BadInput('a million blocks', 'network_g', ('EDSR has more than 10,000 tensors of weights', 'smaller numbers'),
             {'network_g.num_block': 1_000_000}, remedy=False),
    BadInput('a million features', 'network_g', ('EDSR needs ', ' GB of memory or more for its weights'),
             {'network_g.num_feat': 1_000_000}, remedy=False),
    BadInput('network that enlarges by 2^31', 'network_g.upscale', ('2147483648 is more than 64', 'write upscale: 2'),
             {'network_g.upscale': 2**31}),
    BadInput('teacher that enlarges by 2^31', 'teacher.network.upscale', ('2147483648 is more than 64', ),
             {'teacher.network.upscale': 2**31}),
    BadInput('scale of 2^31', 'scale', ('must be a whole number from 1 to 64, not 2147483648', 'write scale: 2'),
             {'scale': 2**31}),
    BadInput('patch of 2^31', 'datasets.train.gt_size', ('2147483648 is larger than 4 of 4 HR images', ),
             {'datasets.train.gt_size': 2**31}),
    BadInput('a million workers', 'datasets.train.num_worker_per_gpu', ('must be a whole number from 0 to 512', ),
             {'datasets.train.num_worker_per_gpu': 1_000_000}),
]
CASES = [*FILES, *FORCED, *NAMES, *PATHS, *LARGE]
