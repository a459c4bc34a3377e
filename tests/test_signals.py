"""Ctrl-C, SIGTERM and SIGHUP finish the step and save; a run goes on from there to the same end. One run a name."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from basicsr.models.sr_model import SRModel
from helpers import REPO, tiny_options, write_image_pairs
from training import train, write_options

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare.logs import read_history
from mipkd_plugin.models import DistillModel, guard
from mipkd_plugin.utils import locks, stopping
from mipkd_plugin.utils.locks import TakenError, alone, run_lock
from mipkd_plugin.utils.stopping import Stop, Stopped, listening

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
GO_ON = 'Go on with: basicsr train -opt x.yml --auto_resume'


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Also of tests that run under ``nohup`` or in the background of a shell, where a signal is ignored."""
    before = {signum: signal.getsignal(signum) for signum in EXIT_CODES}
    for signum, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ten iterations, eight to an epoch; exact resume."""
    opt = tiny_options(write_image_pairs(tmp_path_factory.mktemp('data')))
    opt['train'].update(total_iter=10, exact_resume=True)
    opt['logger'].update(use_tb_logger=False, save_checkpoint_freq=4)
    opt['val']['val_freq'] = 6
    opt['datasets']['val_2'] = {**opt['datasets']['val'], 'name': 'again'}
    return opt


@pytest.fixture
def work(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_options(options, Path('x.yml'))


@pytest.fixture(scope='module')
def whole(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of the run that nobody interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('whole'))
        assert train(write_options(options, Path('x.yml'))) == 0
        return {name: torch.load(Path('experiments/tiny/models', name)) for name in ENDS}


ENDS = ('net_g_latest.pth', 'distill_latest.pth')


def assert_goes_on_to_the_same_end(work: Path, whole: dict[str, Any]) -> None:
    assert train(work, '--auto_resume') == 0
    for name, key in zip(ENDS, ('params_ema', 'losses')):
        found = torch.load(Path('experiments/tiny/models', name))[key]
        for entry, value in whole[name][key].items():
            assert torch.equal(found[entry], value), (name, entry)


def send_at(monkeypatch: pytest.MonkeyPatch, method: str, count: int, signum: int, before: bool = True) -> None:
    """Send a signal to this process in the call number ``count`` of a method of the model that trains."""
    own, calls = getattr(SRModel, method), iter(range(1, 1000))

    def sending(self: Any, *args: Any, **named: Any) -> None:
        due = hasattr(self, 'optimizers') and next(calls) == count  # the check makes a model without
        if due and before:
            os.kill(os.getpid(), signum)
        own(self, *args, **named)
        if due and not before:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(SRModel, method, sending)


@pytest.mark.parametrize('signum', EXIT_CODES)
def test_a_signal_in_a_step(work: Path, whole: dict[str, Any], signum: int, monkeypatch: pytest.MonkeyPatch,
                            capfd: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, 'feed_data', 3, signum, before=False)
        assert train(work) == EXIT_CODES[signum]
    name = 'Ctrl-C' if signum == signal.SIGINT else signal.Signals(signum).name
    message = capfd.readouterr().err
    assert f'{name}: finishing this iteration, then saving. Once more stops at once.\n' in message
    assert message.endswith(f'Stopped by {name} after iteration 3; saved. {GO_ON}\n')
    assert_goes_on_to_the_same_end(work, whole)
    assert sorted(read_history(Path('experiments/tiny'), 10).seconds) == [*range(1, 11)], 'no time of training is lost'


@pytest.mark.parametrize('image', [2, 6])
def test_a_signal_in_a_validation(work: Path, whole: dict[str, Any], image: int, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    """After iteration 6 in the first or the second test set; nothing was saved there yet."""
    images: list[int] = []
    with monkeypatch.context() as patch:
        send_at(patch, 'test', image, signal.SIGTERM)
        patch.setattr(SRModel, 'get_current_visuals', _counted(SRModel.get_current_visuals, images))
        assert train(work) == 143
    assert len(images) == image, 'the image at work was finished, and no other one begun'
    assert 'Stopped by SIGTERM after iteration 6; saved.' in capsys.readouterr().err
    assert Path('experiments/tiny/training_states/6.state').is_file()
    assert_goes_on_to_the_same_end(work, whole)


def _counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    return counting


def test_a_signal_in_a_save(work: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, 'save_network', 1, signal.SIGTERM)
        assert train(work) == 143
    assert 'Stopped by SIGTERM after iteration 5; saved.' in capsys.readouterr().err
    assert {path.name for path in Path('experiments/tiny/training_states').iterdir()} == {'4.state', '5.state'}
    assert_goes_on_to_the_same_end(work, whole)


def test_a_signal_in_the_last_validation(work: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, 'test', 2 * 4 + 3, signal.SIGTERM)
        assert train(work) == 143
    assert 'Stopped by SIGTERM after iteration 10; saved.' in capsys.readouterr().err
    assert_goes_on_to_the_same_end(work, whole)


def test_a_signal_before_the_first_step(work: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    send_at(monkeypatch, 'init_training_settings', 1, signal.SIGTERM)
    assert train(work) == 143
    assert capsys.readouterr().err.endswith('stopped by SIGTERM\n')


def test_what_is_ignored_stays_ignored() -> None:
    """``nohup`` ignores SIGHUP, a shell in the background Ctrl-C."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listening():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, '_exit', codes.append)
    stop = Stop()
    stop.is_later = True
    clock = iter([10.0, 10.2, 10.4, 10.6])
    monkeypatch.setattr(stopping.time, 'monotonic', lambda: next(clock))
    for _ in range(3):
        stop.on_signal(signal.SIGTERM)
        assert codes == [], 'the second and third came with the first, as from timeout'
    stop.on_signal(signal.SIGTERM)
    assert codes == [143], 'whoever types it again and again is heard'
    assert 'SIGTERM again: stopped at once; checkpoints from before stay\n' in capfd.readouterr().err


def test_other_commands_stop_with_a_code_too(work: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('mipkd_plugin.config.read_options', lambda *args: os.kill(os.getpid(), signal.SIGHUP))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 129
    assert capsys.readouterr().err == 'stopped by SIGHUP\n'


# --------------------------------------------------------------------------------------------- as processes
def start(folder: Path, *arguments: str, code: str = '') -> subprocess.Popen[str]:
    """``basicsr train -opt x.yml`` as a process group, as a terminal starts it; stderr joins stdout."""
    code = f'import sys; {code}\nfrom mipkd_plugin.cli import basicsr_main\nsys.exit(basicsr_main())'
    environment = {**os.environ, 'PYTHONPATH': f'{REPO}', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, 'train', '-opt', 'x.yml', *arguments],
                            cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True,
                            # a shell in the background has its children ignore it, and so would these
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def read_until(process: subprocess.Popen[str], piece: str) -> str:
    text = ''
    for line in process.stdout or ():
        text += line
        if piece in line:
            return text
    raise AssertionError(text[-3000:])


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_with_data_workers(work: Path, options: dict[str, Any], signum: int) -> None:
    """As a terminal sends Ctrl-C, and ``timeout`` and Slurm SIGTERM: workers live on, and print nothing."""
    opt = {**options, 'datasets': {**options['datasets'], 'train': {
        **options['datasets']['train'], 'num_worker_per_gpu': 2, 'dataset_enlarge_ratio': 500}}}
    write_options({**opt, 'train': {**opt['train'], 'total_iter': 900}}, work)
    process = start(work.parent)
    read_until(process, 'iter:       3')
    os.killpg(process.pid, signum)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == EXIT_CODES[signum], out
    assert 'Traceback' not in out
    assert GO_ON in out


def test_a_terminal_that_is_gone(work: Path, options: dict[str, Any]) -> None:
    """SIGHUP comes as the terminal closes, and the parent of a run may be killed: nobody reads any more."""
    write_options({**options, 'train': {**options['train'], 'total_iter': 900}, 'datasets': {
        **options['datasets'], 'train': {**options['datasets']['train'], 'dataset_enlarge_ratio': 500}}}, work)
    process = start(work.parent)
    read_until(process, 'iter:       5')
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=100) == 129
    assert max(int(path.stem) for path in Path('experiments/tiny/training_states').iterdir()) >= 5


SPAWN = "import multiprocessing; multiprocessing.set_start_method('spawn')"
PLUGIN = """
import multiprocessing
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class TheirDataset(PairedImageDataset):
    def __getitem__(self, index):
        from basicsr.utils.registry import LOSS_REGISTRY
        if multiprocessing.parent_process() is not None:
            open('seen', 'w').close()
        assert LOSS_REGISTRY.get('MiPKDLoss')
        return super().__getitem__(index)
"""


def test_spawned_workers_are_repaired_and_know_the_plugins(work: Path, options: dict[str, Any]) -> None:
    """As Windows and macOS start workers."""
    (work.parent / 'theirs.py').write_text(PLUGIN)
    own = {**options['datasets']['train'], 'num_worker_per_gpu': 1, 'persistent_workers': True, 'type': 'TheirDataset'}
    write_options({**options, 'imports': ['theirs.py'], 'datasets': {**options['datasets'], 'train': own},
                   'train': {**options['train'], 'total_iter': 2, 'exact_resume': False}}, work)
    process = start(work.parent, code=SPAWN)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 0, out[-3000:]
    assert (work.parent / 'seen').exists(), 'a worker has read'


# --------------------------------------------------------------------------------------------- one run a name
def test_a_second_training_of_a_name_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(run_lock(Path('experiments'), 'tiny'), keep=False):
        assert train(work) == 2
    message = capsys.readouterr().err
    assert f"another basicsr train is training 'tiny' in {Path.cwd()}/experiments (process {os.getpid()} on " in message
    assert 'wait for it, stop it, or write another name: in the option file\n' in message
    assert list(Path('experiments').iterdir()) == [], 'nothing is left'


def test_only_the_first_rank_holds_the_lock(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(run_lock(Path('experiments'), 'tiny')), monkeypatch.context() as patch:
        patch.setattr('mipkd_plugin.models.running.is_first_rank', lambda: False)
        assert train(work) == 0
    assert train(work) == 0


@pytest.mark.parametrize('variable', ['RANK', 'SLURM_PROCID'])
def test_other_programs_may_set_the_variables_of_a_launcher(work: Path, variable: str, monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    """As ``srun -n 4`` with one option file for each task does."""
    monkeypatch.setenv(variable, '1')
    with alone(run_lock(Path('experiments'), 'tiny')):
        assert train(work) == 2
    assert "another basicsr train is training 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(('launcher', 'variables', 'says'), [
    ('slurm', {}, 'srun did not start this process: SLURM_PROCID is not set'),
    ('pytorch', {}, 'torchrun did not start this process: RANK is not set'),
    ('pytorch', {'RANK': '0', 'WORLD_SIZE': 'x'}, 'WORLD_SIZE is not a number'),
    ('slurm', {'SLURM_PROCID': '0', 'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'a'}, 'BasicSR needs a CUDA device for it')])
def test_a_launcher_that_did_not_launch(work: Path, launcher: str, variables: dict[str, str], says: str,
                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('RANK', 'WORLD_SIZE', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert train(work, '--launcher', launcher) == 2
    message = capsys.readouterr().err
    assert f'1. --launcher {launcher}: ' in message
    assert says in message
    assert '-> run: torchrun --nproc_per_node=2 -m mipkd_plugin train -opt x.yml --launcher pytorch' in message


# --------------------------------------------------------------------------------------------- a run that breaks off
def test_an_image_that_breaks_during_a_run(options: dict[str, Any], work: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    optimize = SRModel.optimize_parameters
    images = Path(shutil.copytree(options['datasets']['val']['dataroot_lq'], 'LR'))
    own = {**options['datasets']['val'], 'dataroot_lq': str(images)}
    write_options({**options, 'datasets': {**options['datasets'], 'val': own}}, work)

    def breaking(self: Any, current_iter: int) -> None:
        if current_iter == 5:
            next(images.glob('*.png')).write_bytes(b'')
        optimize(self, current_iter)

    plain = {**options, 'model_type': 'SRModel', 'datasets': {**options['datasets'], 'val': own}}
    plain = {key: value for key, value in plain.items() if key != 'teacher'}
    plain['train'] = {key: value for key, value in plain['train'].items() if key != 'distill_opt'}
    write_options(plain, work)
    monkeypatch.setattr(SRModel, 'optimize_parameters', breaking)
    assert train(work) == 1
    message = capsys.readouterr().err
    assert 'The training breaks off after iteration 6: ' in message
    assert '.png is empty; ' in message
    assert message.endswith('   -> Then go on with: basicsr train -opt x.yml --auto_resume\n')
    log = next(Path('experiments/tiny').glob('train_*.log')).read_text(encoding='utf-8')
    assert 'breaks off after iteration 6' in log


def test_the_pipe_of_a_data_worker_that_dies(work: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    def reset(*args: Any) -> None:
        raise ConnectionResetError(104, 'Connection reset by peer')

    def said(seconds: float) -> None:
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    monkeypatch.setattr(DistillModel, 'optimize_parameters', reset)
    monkeypatch.setattr(guard.time, 'sleep', said)
    assert train(work) == 1
    assert 'a data worker has died, most often because the memory is full' in capsys.readouterr().err


def test_a_data_worker_that_dies(options: dict[str, Any], work: Path) -> None:
    own = {**options['datasets']['train'], 'num_worker_per_gpu': 1}
    write_options({**options, 'datasets': {'train': own}, 'val': None, 'logger': {
        **options['logger'], 'save_checkpoint_freq': 9000}, 'train': {**options['train'], 'total_iter': 9000}}, work)
    process = start(work.parent)
    read_until(process, 'iter:')
    killed: set[int] = set()
    while process.poll() is None:  # a worker that has read all of its epoch is not missed
        with contextlib.suppress(psutil.NoSuchProcess):
            for worker in psutil.Process(process.pid).children():
                if worker.pid not in killed:
                    worker.kill()
                killed.add(worker.pid)
        time.sleep(0.2)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 1, out[-3000:]
    assert 'a data worker has died, most often because the memory is full: fewer num_worker_per_gpu need less' in out
    assert out.rstrip().endswith('-> Then start again: there is no checkpoint yet')


def test_a_disk_without_locks_does_not_stop_a_training(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(locks, '_lock', fails)
    assert train(work) == 0


def test_a_lock_whose_file_is_removed_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the removed file must not believe that it holds the new one."""
    path, lock = tmp_path / 'locks/a', locks._lock
    taken: list[int] = []

    def slow(file: Any) -> bool:
        if not taken:
            taken.append(1)
            path.unlink()
        return lock(file)

    monkeypatch.setattr(locks, '_lock', slow)
    with alone(path, keep=False):
        assert path.is_file()
        with pytest.raises(TakenError), alone(path):
            pass
    assert not path.parent.exists()


# --------------------------------------------------------------------------------------------- BasicSR's own copy
@pytest.mark.parametrize('arguments', [(), ('--auto_resume', )])
def test_the_option_file_may_be_the_copy_in_the_folder_of_the_run(work: Path, arguments: tuple[str, ...]) -> None:
    assert train(work) == 0
    copied = Path('experiments/tiny/x.yml')
    content = work.read_text()
    for _ in range(2):
        assert train(copied, *arguments) == 0
        header, _, rest = copied.read_text().partition('\n\n')
        assert rest == content
        assert header.count('# CMD:') == 1
    assert len(list(Path('experiments').iterdir())) == (1 if arguments else 3)
