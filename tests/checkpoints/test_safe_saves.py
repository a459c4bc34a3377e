"""A save that fails ends the run with one message and an exit code, and leaves the checkpoints before it readable."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import basicsr.train
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from training import Killed, die_at, train, train_until, write_options

from mipkd_plugin.checkpoints import writing
from mipkd_plugin.checkpoints.disk_errors import disk_errors
from mipkd_plugin.checkpoints.errors import SaveError
from mipkd_plugin.checkpoints.files import remove_older
from mipkd_plugin.cli import basicsr_main
from mipkd_plugin.config import handover
from mipkd_plugin.utils.files import write_atomically

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.chdir(tmp_path)


def plain(make: Make, total: int = 6, every: int = 2, **logger: Any) -> dict[str, Any]:
    """A run without a teacher: BasicSR's own SRModel."""
    opt = make(model_type='SRModel')
    del opt['teacher'], opt['train']['distill_opt'], opt['val']
    opt['train']['total_iter'] = total
    opt['logger'].update(save_checkpoint_freq=every, use_tb_logger=False, **logger)
    return opt


def distilling(make: Make, **changes: Any) -> dict[str, Any]:
    opt = make()
    del opt['val']
    opt['train'].update(total_iter=6, exact_resume=True)
    opt['logger'].update(use_tb_logger=False)
    for key, value in changes.items():
        opt[key].update(value)
    return opt


def states(run: str | Path = 'experiments/tiny') -> list[int]:
    return sorted(int(path.stem) for path in Path(run).glob('training_states/*.state'))


def assert_whole(run: str | Path = 'experiments/tiny') -> None:
    """Every file with a final name can be read, and nothing half written is left."""
    files = [path for path in Path(run).rglob('*') if path.suffix in ('.pth', '.state')]
    for path in files:
        torch.load(path, weights_only=True)
    assert not [path for path in Path(run).rglob('*') if path.name.endswith('.part')]


# ---------------------------------------------------------------------------------------------------- saves that fail
@pytest.mark.parametrize('model', ['SRModel', 'DistillModel'])
def test_a_full_disk(train_options: Make, tmp_path: Path, small_disk: Path, model: str, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    opt = plain(train_options, 30) if model == 'SRModel' else distilling(train_options, train={'total_iter': 30})
    path = write_options(opt, tmp_path / 'x.yml')
    monkeypatch.chdir(small_disk)
    assert train(path) == 4
    message = capsys.readouterr().err.split('\n\n')[-1]
    assert message.count('the disk is full: it needs ') == 1
    assert 'Just ignore it' not in message
    assert 'Traceback' not in message
    last = states()[-1]
    assert f'go on with --auto_resume: the last complete checkpoint is {small_disk}/experiments/tiny/training_states/'\
        f'{last}.state' in message
    assert 2 <= last < 28
    assert_whole()
    shutil.copytree('experiments', tmp_path / 'experiments')
    monkeypatch.chdir(tmp_path)
    assert train(path, '--auto_resume') == 0
    assert states()[-1] == 30


def test_a_limit_of_the_file_size(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(plain(train_options), Path('x.yml'))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_480, before[1]))
    try:
        assert train(path) == 4
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert 'the limit of this shell (ulimit -f) is 20,480\n   -> raise the limit: ulimit -f unlimited' in message
    assert 'no checkpoint was saved before' in message
    assert states() == []
    assert_whole()


@pytest.mark.parametrize(('step', 'number', 'says'), [
    ('flush', errno.ENOSPC, 'the disk is full: it needs '), ('open', errno.ENOSPC, 'the disk is full\n'),
    ('flush', errno.EDQUOT, 'your quota on this disk is used up: it needs '), ('name', errno.EROFS, 'is read-only\n'),
    ('open', errno.EACCES, 'you have no right to write into '), ('flush', errno.EIO, 'Input/output error\n')])
def test_whatever_the_disk_says(train_options: Make, step: str, number: int, says: str,
                                capsys: pytest.CaptureFixture[str]) -> None:
    """The training state of iteration 4 fails; that of iteration 2 stays, and the rest of the new set is no harm."""
    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **named: Any) -> Any:
            name = str(first if step != 'flush' else os.readlink(f'/proc/self/fd/{first}'))
            if name.endswith('.4.state.part'):
                raise OSError(number, os.strerror(number))
            return function(first, *args, **named)

        return call

    path = write_options(plain(train_options, 4), Path('x.yml'))
    place, name = {'open': (Path, 'open'), 'flush': (os, 'fsync'), 'name': (os, 'replace')}[step]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, failing(getattr(place, name)))
        assert train(path) == 4
    message = capsys.readouterr().err
    assert 'cannot save ' in message
    assert says in message
    assert states() == [2]
    assert_whole()
    assert train(path, '--auto_resume') == 0
    assert states() == [2, 4]


def test_what_was_not_written_as_it_should_be(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that says yes and writes something else: the part is read back."""
    digest = writing.file_digest

    def spoiled(path: Path) -> writing.Written:
        if path.name == '.net_g_4.pth.part':
            path.write_bytes(path.read_bytes()[:-1] + b'x')
        return digest(path)

    monkeypatch.setattr(writing, 'file_digest', spoiled)
    assert train(write_options(plain(train_options, 4), Path('x.yml'))) == 4
    assert 'net_g_4.pth: what was read back differs from what was written' in capsys.readouterr().err
    assert states() == [2]
    assert_whole()


@pytest.mark.parametrize('gone', ['training_states', 'models', '.'])
def test_a_folder_that_vanishes_during_a_run(train_options: Make, gone: str, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    optimize = SRModel.optimize_parameters

    def vanishing(self: Any, current_iter: int) -> None:
        if current_iter == 3:
            shutil.rmtree(Path('experiments/tiny') / gone)
        optimize(self, current_iter)

    monkeypatch.setattr(SRModel, 'optimize_parameters', vanishing)
    assert train(write_options(plain(train_options, 4), Path('x.yml'))) == 4
    message = capsys.readouterr().err
    folder = Path('experiments/tiny', 'models' if gone == '.' else gone).absolute()
    assert f'the folder {folder} is gone\n   -> leave the folders of a training alone while it runs' in message
    assert 'then start the run again: the checkpoint ' in message
    assert 'experiments/tiny/training_states/2.state is gone' in message
    assert_whole()
    assert Path('experiments/tiny/models/net_g_2.pth').exists() is (gone == 'training_states')


@pytest.mark.parametrize('command', ['train', 'test'])
def test_images_on_a_full_disk(train_options: Make, tmp_path: Path, small_disk: Path, command: str,
                               monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opt = train_options(model_type='SRModel')
    del opt['teacher'], opt['train']['distill_opt']
    opt['train']['total_iter'] = 2
    opt['logger']['use_tb_logger'] = False
    opt['val'].update(val_freq=1, save_img=True, suffix=None)
    if command == 'test':
        torch.save({'params': build_network(opt['network_g']).state_dict()}, tmp_path / 'weights.pth')
        opt = {**opt, 'datasets': {'test': opt['datasets']['val']},
               'path': {'pretrain_network_g': str(tmp_path / 'weights.pth'), 'strict_load_g': True}}
        del opt['train'], opt['logger']
    path = write_options(opt, tmp_path / 'x.yml')
    monkeypatch.chdir(small_disk)

    def full(self: Any, *args: Any) -> None:
        is_of_the_check = not hasattr(self, 'optimizers')
        with contextlib.suppress(OSError), (small_disk / 'fill').open('ab', buffering=0) as file:
            while not is_of_the_check:
                file.write(b'x' * 4096)
        test(self, *args)

    test = SRModel.test
    monkeypatch.setattr(SRModel, 'test', full)
    assert (train(path) if command == 'train' else basicsr_main(['test', '-opt', str(path)])) == 4
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    assert f'cannot save {small_disk}/{"experiments" if command == "train" else "results"}/tiny/visualization/' in (
        message.split('\n\n')[-1])
    assert 'the disk is full\n   -> free some space' in message


def test_other_errors_are_no_error_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError), disk_errors():
        Path('datasets/HR.png').read_bytes()
    with pytest.raises(SaveError, match='the folder experiments/x is gone'), disk_errors():
        Path('experiments/x/y.png').write_bytes(b'')


def test_an_object_that_torch_cannot_save_is_not_ignored(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    """BasicSR tries three times, writes "Just ignore it", and ends with exit code 0."""
    save = SRModel.save

    def odd(self: Any, epoch: int, current_iter: int) -> None:
        self.schedulers[0].odd = lambda: None
        save(self, epoch, current_iter)

    monkeypatch.setattr(SRModel, 'save', odd)
    assert train(write_options(plain(train_options, 2), Path('x.yml'))) == 4
    message = capsys.readouterr().err
    assert '2.state: torch cannot write what is in it (' in message
    assert 'Just ignore' not in message
    assert states() == []
    assert_whole()


def test_the_latest_files_stay_when_new_ones_fail(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one name, and of two files: both are proven before one of them gets its name."""
    path = write_options(distilling(train_options), Path('x.yml'))
    assert train(path) == 0
    latest = {file: file.read_bytes() for file in Path('experiments/tiny/models').glob('*_latest.pth')}
    assert len(latest) == 2
    part = writing.write_part

    def failing(file: Path, content: Any) -> writing.Written:
        if file.name == 'net_g_latest.pth':
            raise SaveError('x')
        return part(file, content)

    monkeypatch.setattr(writing, 'write_part', failing)
    assert train(path, '--auto_resume', '--force_yml', 'train:total_iter=8') == 4
    assert {file: file.read_bytes() for file in latest} == latest
    assert_whole()


def test_a_kill_between_two_names_is_noticed(train_options: Make) -> None:
    """A set that is saved again over another one: the files are of both, so the set before is taken."""
    path = write_options(plain(train_options), Path('x.yml'))
    assert train(path) == 0
    with pytest.MonkeyPatch.context() as patch:
        replace = os.replace

        def dying(part: Path, file: Path) -> None:
            if Path(file).name == '6.state':
                raise Killed
            replace(part, file)

        patch.setattr(os, 'replace', dying)
        with pytest.raises(Killed):
            train(path, '--force_yml', 'path:resume_state=experiments/tiny/training_states/2.state',
                  'train:optim_g:lr=0.01', 'train:resume_hyperparameters=new')
    assert states() == [2, 4, 6]
    assert train(path, '--auto_resume', '--force_yml', 'train:resume_hyperparameters=keep') == 0
    log = max(Path('experiments/tiny').glob('*.log')).read_text()
    assert '6.state: net_g_6.pth is not the file that was saved with it.' in log
    assert 'Start training from epoch: 0, iter: 4\n' in log


def test_a_cut_save_leaves_nothing_and_its_rest_is_removed(train_options: Make) -> None:
    path = write_options(plain(train_options), Path('x.yml'))
    train_until(path, 'cut', 4)
    assert states() == [2]
    assert_whole()
    rest = Path('experiments/tiny/models/.net_g_4.pth.part')
    rest.write_bytes(b'of a process that was killed')
    assert train(path, '--auto_resume') == 0
    assert states() == [2, 4, 6]
    assert_whole()


def test_a_log_on_a_full_disk_is_no_traceback_for_each_line(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    def full(self: Any, text: str) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    class Stream:
        write, flush, close = full, lambda self: None, lambda self: None

    monkeypatch.setattr(logging.FileHandler, '_open', lambda self: Stream())
    assert train(write_options(plain(train_options, 2), Path('x.yml'))) == 0
    assert 'Logging error' not in capsys.readouterr().err


def test_other_errors_of_the_disk_are_one_message(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device', 'experiments/tiny/x.yml')

    monkeypatch.setattr(handover, 'write_text', full)
    assert train(write_options(plain(train_options, 2), Path('x.yml'))) == 4
    assert capsys.readouterr().err.startswith('cannot save experiments/tiny/x.yml: the disk is full\n   -> free some')


def test_nothing_stays_replaced(train_options: Make) -> None:
    import logging

    before = torch.save, basicsr.train.build_model, basicsr.train.load_resume_state, logging.Handler.handleError
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 'trained', 1)
        with pytest.raises(Killed):
            train(write_options(plain(train_options, 2), Path('x.yml')))
    assert (torch.save, basicsr.train.build_model, basicsr.train.load_resume_state,
            logging.Handler.handleError) == before


def test_an_error_removes_the_part(tmp_path: Path) -> None:
    def failing(part: Path) -> None:
        part.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'full')

    (tmp_path / 'x').write_bytes(b'old')
    with pytest.raises(OSError, match='full'):
        write_atomically(tmp_path / 'x', failing)
    assert [path.name for path in tmp_path.glob('*x*')] == ['x']
    assert (tmp_path / 'x').read_bytes() == b'old'


# ------------------------------------------------------------------------------------------------------------ keep_last
def test_older_checkpoints_are_removed_when_the_new_one_is_there(train_options: Make,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    opt = distilling(train_options, train={'total_iter': 10}, logger={'keep_last': 2})
    assert train(write_options(opt, Path('x.yml'))) == 0
    assert states() == [8, 10]
    assert sorted(path.stem for path in Path('experiments/tiny/models').iterdir()) == sorted(
        [f'{kind}_{label}' for label in (8, 10) for kind in ('net_g', 'distill', 'random')]
        + ['net_g_latest', 'distill_latest'])
    assert 'Removed the checkpoints of iteration 2 (logger.keep_last: 2).' in capsys.readouterr().err


def checkpoint_files(folder: Path, *labels: int) -> tuple[Path, Path]:
    models, training = folder / 'models', folder / 'training_states'
    for each in (models, training):
        each.mkdir(parents=True)
    for label in labels:
        torch.save({}, training / f'{label}.state')
        torch.save({}, models / f'net_g_{label}.pth')
        torch.save({}, models / f'net_d_{label}.pth')
    for name in ('net_g_latest.pth', 'net_g_best.pth', 'net_g_2_mine.pth', 'notes_2.txt'):
        (models / name).write_bytes(b'')
    return models, training


def test_the_checkpoint_that_was_found_by_itself_is_removed_in_its_turn(train_options: Make) -> None:
    path = write_options(plain(train_options, 4, keep_last=1), Path('x.yml'))
    assert train(path) == 0
    assert states() == [4]
    assert train(write_options(plain(train_options, 8, keep_last=1), Path('x.yml')), '--auto_resume') == 0
    assert states() == [8]


def test_which_checkpoints_are_kept(tmp_path: Path) -> None:
    models, training = checkpoint_files(tmp_path, 1, 2, 4, 6, 8, 20)
    (training / '6.state').write_bytes(b'cut')  # does not count
    (training / '1.state').unlink()  # the rest of a set
    assert remove_older(models, training, 2, 8) == [1, 2]
    assert states(tmp_path) == [4, 6, 8, 20]
    assert {path.name for path in models.iterdir()} == {
        'net_g_latest.pth', 'net_g_best.pth', 'net_g_2_mine.pth', 'notes_2.txt',
        *(f'net_{net}_{label}.pth' for net in 'gd' for label in (4, 6, 8, 20))}


def test_the_checkpoint_that_the_option_file_names_stays(tmp_path: Path) -> None:
    models, training = checkpoint_files(tmp_path, 2, 4, 6)
    assert remove_older(models, training, 1, 6, training / '2.state') == [4]
    assert states(tmp_path) == [2, 6]


def test_a_failed_save_removes_nothing(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_options(plain(train_options, 6, keep_last=1), Path('x.yml'))
    monkeypatch.setattr(writing, 'file_digest', lambda part, whole=writing.file_digest: (
        writing.Written(0, '') if '4' in part.name else whole(part)))
    assert train(path) == 4
    assert states() == [2]


# ------------------------------------------------------------------------------------------------------------ torchrun
RANKS = '''
import errno, sys
from mipkd_plugin import cli
from mipkd_plugin.checkpoints import writing
part = writing.write_part
def failing(path, content):
    if path.name == 'net_g_4.pth':
        raise writing.save_error(OSError(errno.ENOSPC, 'full'), path, 99)
    return part(path, content)
writing.write_part = failing
sys.exit(cli.basicsr_main(sys.argv[1:]))
'''


def test_all_ranks_end_when_the_first_cannot_save(train_options: Make, tmp_path: Path) -> None:
    Path('ranks.py').write_text(RANKS)
    opt = plain(train_options, 20)
    write_options(opt, Path('x.yml'))
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--standalone',
               'ranks.py', 'train', '-opt', 'x.yml', '--launcher', 'pytorch']
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode != 0
    assert 'exitcode  : 4' in result.stderr, result.stderr[-3000:]
    assert result.stderr.count('the disk is full: it needs 99 bytes') == 1
    assert states() == [2]
    assert_whole()
    # one process goes on where two have stopped; BasicSR alone would find that all epochs are over
    opt['train']['total_iter'] = 16
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 0
    assert states()[-1] == 16
