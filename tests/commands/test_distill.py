"""``mipkd distill``, on tiny images with a tiny teacher: start, stop, go on, results, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS
from training import forget_logger

from mipkd_plugin.cli import basicsr_main, mipkd_main

LINE = ['distill', '--teacher', 'teacher.pth', '--hr', 'photos', '--student', 'EDSR:8x3', '--out', 'run1']
SMALL = ['--iterations', '12', '--batch', '2', '--patch', '16', '--crops', '8', '--threads', '1']


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a teacher's file and a folder of photographs."""
    rng = np.random.default_rng(0)
    (tmp_path / 'photos').mkdir()
    for index in range(4):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'photos/{index}.png'), cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_CUBIC))
    torch.manual_seed(1)
    torch.save({'params': build_network(TEACHERS['EDSR']).state_dict()}, tmp_path / 'teacher.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distill(*arguments: str, line: list[str] = LINE) -> int:
    """Type ``mipkd distill``."""
    forget_logger()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['mipkd', *line, *arguments])
        return mipkd_main([*line, *arguments])


def everything(folder: Path) -> dict[str, float]:
    """All files below a folder, with their time of change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob('*'))
            if path.is_file()}


def weights(name: str = 'run1') -> dict[str, torch.Tensor]:
    return torch.load(f'experiments/{name}/models/net_g_latest.pth', weights_only=True)['params_ema']


# --------------------------------------------------------------------------------------------------- start to picture
def test_from_a_teacher_to_a_picture_and_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL) == 0
    said = capsys.readouterr()
    assert 'Recognized (BasicSR), x2:\nteacher:\n  network: {type: EDSR' in said.out
    assert 'held out to validate on, as --val is not given: 2.png' in said.out
    assert '\n  taps           2 ' in said.out
    assert '| student' in said.out
    assert '| teacher' in said.out
    assert '| bicubic' in said.out
    lines = [line.strip() for line in said.out.partition('What to type next:\n')[2].splitlines()]
    assert [line.split()[1] for line in lines] == ['upscale', 'export', 'report', 'show']
    assert 'DIR' not in ' '.join(lines), 'each can be typed as it is'
    assert 'after 12: held_out PSNR ' in said.err
    assert 'l_pix' in said.err
    assert 'images/s' in said.err
    assert 'INFO' not in said.out + said.err
    assert 'Disable distributed' not in said.out
    assert cv2.imread('run1/comparison.png').shape[1] > 400
    log, = Path('experiments/run1').glob('train_*.log')
    assert 'Start training from epoch: 0' in log.read_text()
    assert 'iter:      12' in log.read_text()
    text = Path('run1/run1.yml').read_text()
    assert text.count('\n') <= 60
    own = yaml.safe_load(text)
    assert own['network_g']['num_feat'] == STUDENTS['EDSR']['num_feat']
    assert (own['datasets']['train']['gt_size'], own['train']['total_iter']) == (32, 12)
    before = everything(work)
    assert distill(*SMALL) == 0
    again = capsys.readouterr().out
    assert 'run1 is trained.' in again
    assert said.out[said.out.index('| bicubic'):] == again[again.index('| bicubic'):]
    assert everything(work) == before, 'nothing is made twice'
    for line in lines:
        if 'onnx' not in line or importlib.util.find_spec('onnxruntime'):
            assert mipkd_main(shlex.split(line)[1:]) == 0, line
    assert [path.name for path in Path('run1/upscaled').glob('*.png')] == ['2.png']


def test_write_only_then_basicsr(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL, '--write-only') == 0
    said = capsys.readouterr().out
    assert 'basicsr train -opt run1/run1.yml\n' in said
    assert not Path('experiments').exists()
    forget_logger()
    assert basicsr_main(['train', '-opt', 'run1/run1.yml']) == 0
    capsys.readouterr()
    assert distill(*SMALL) == 0
    assert 'run1 is trained.' in capsys.readouterr().out


@pytest.mark.parametrize('loss', ['none', 'logits', 'fitnets'])
def test_other_losses(work: Path, loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL, '--loss', loss, '--write-only') == 0
    own = yaml.safe_load(Path('run1/run1.yml').read_text())
    assert own['model_type'] == ('AnySRModel' if loss == 'none' else 'DistillModel')
    assert ('teacher' in own) == (loss != 'none')


@pytest.mark.parametrize(('more', 'line'), [
    (['--student', 'EDSR:12x3'], 'init teacher_slice blocks of the teacher: the best start of our comparisons'),
    (['--init', 'teacher_slice'], 'init teacher_slice given'),
    (['--student', 'EDSR:12x3', '--init', 'random'], 'init random given'),
    (['--student', 'EDSR:12x3', '--set', 'path:pretrain_network_g=half.pth'], 'init random weights, or the file that'),
    ([], 'init random weights: a part of each layer was no better'),
    (['--student', 'SRVGGNetCompact:8x3'], 'init random the student is of the class')])
def test_a_student_that_fits_into_the_teacher_starts_there(work: Path, more: list[str], line: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'params': build_network({**TEACHERS['EDSR'], 'num_block': 3}).state_dict()}, 'half.pth')
    assert distill(*SMALL, *more, '--write-only') == 0
    assert any(' '.join(said.split()).startswith(line) for said in capsys.readouterr().out.splitlines())
    begins = yaml.safe_load(Path('run1/run1.yml').read_text())['train'].get('init')
    assert begins == ('teacher_slice' if 'teacher_slice' in line else None)


def test_entries_of_the_file_can_be_set(work: Path) -> None:
    changes = ['--set', 'train:optim_g:lr=1e-4', '--set', 'logger:use_tb_logger=false', '--set',
               'datasets:val:name=mine']
    assert distill(*SMALL, *changes, '--write-only') == 0
    own = yaml.safe_load(Path('run1/run1.yml').read_text())
    assert (own['train']['optim_g']['lr'], own['datasets']['val']['name']) == (1e-4, 'mine')


@pytest.mark.parametrize('more', [['--iterations', '1'], ['--until', '0.1']])
def test_a_run_that_distills_once_is_measured(work: Path, more: list[str]) -> None:
    """Behind its last iteration with distillation a run closes its networks."""
    assert distill(*SMALL, *more, '--write-only') == 0


def test_students_are_listed_without_images(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(line=['distill', '--teacher', 'teacher.pth', '--list']) == 0
    assert '--student' in capsys.readouterr().out
    assert not Path('teacher_to_1-8').exists()


# ---------------------------------------------------------------------------------------------------- stop and go on
@pytest.mark.timeout(900)
def test_ctrl_c_loses_nothing(work: Path) -> None:
    """Stopped in the middle and typed again, a run ends with the bits of one that was not stopped."""
    long = ['--iterations', '40', '--batch', '2', '--patch', '16', '--crops', '8', '--threads', '1', '--val-freq', '40']
    command = [
        sys.executable, '-c', 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); '
        'from mipkd_plugin.cli import mipkd_main; sys.exit(mipkd_main())']  # shells start jobs that ignore Ctrl-C
    line = [*LINE, *long, '--set', 'logger:print_freq=1']
    with subprocess.Popen([*command, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for_iteration(process, work / 'experiments/run1', 5)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert 'Stopped by Ctrl-C after iteration ' in said
    assert 'Go on with: mipkd distill --teacher teacher.pth' in said
    assert distill(*long, '--set', 'logger:print_freq=1') == 0
    resumed = weights()
    whole = [*LINE[:-1], 'run2']
    assert distill(*long, '--set', 'logger:print_freq=1', line=whole) == 0
    assert all(torch.equal(value, resumed[name]) for name, value in weights('run2').items())


def _wait_for_iteration(process: subprocess.Popen[str], folder: Path, iteration: int) -> None:
    while process.poll() is None:
        if any(f'iter: {iteration:7,d},' in log.read_text() for log in folder.glob('train_*.log')):
            return
        time.sleep(0.02)
    pytest.fail(process.communicate()[1])


# ------------------------------------------------------------------------------------------------ what it refuses
def refused(capsys: pytest.CaptureFixture[str], work: Path, *arguments: str, line: list[str] = LINE) -> str:
    """Type it; it is refused with exit code 2, and nothing is written."""
    before = everything(work)
    capsys.readouterr()
    assert distill(*arguments, line=line) == 2
    assert everything(work) == before
    return capsys.readouterr().err


def test_an_existing_run_of_other_options(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL, '--write-only') == 0
    says = refused(capsys, work, *SMALL[2:], '--iterations', '24', '--loss', 'logits')
    assert says.startswith('run1: holds a run with other options:\n')
    assert '   --iterations: 12 there, 24 here\n' in says
    assert '--loss: mipkd there, logits here' in says
    assert '-> Train in another folder: --out run1_2; or go on with that run: mipkd distill --teacher' in says
    assert distill(*SMALL, '--learning-rate', str(json.loads(Path('run1/distill.json').read_text())['values'][
        'learning_rate']), '--write-only') == 0, 'what it had chosen may be given'


def test_another_teacher_under_the_same_name(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL, '--write-only') == 0
    old = Path('teacher.pth').read_bytes()
    state = torch.load('teacher.pth', weights_only=True)
    state['params']['conv_last.bias'] += 1
    torch.save(state, 'teacher.pth')
    says = refused(capsys, work, *SMALL)
    assert '   --teacher: teacher.pth there had other content than teacher.pth here\n' in says
    assert '; or put the old teacher.pth back, and go on with that run: mipkd distill --teacher' in says
    Path('teacher.pth').write_bytes(old)
    assert distill(*SMALL, '--write-only') == 0


def test_a_run_that_basicsr_began(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('experiments/run1').mkdir(parents=True)
    assert 'is a run that no mipkd distill --out run1 has begun.\n   -> Write another folder: --out run1_2' in refused(
        capsys, work, *SMALL)


def test_a_folder_of_a_version_that_chose_no_start(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(*SMALL, '--write-only') == 0
    record = json.loads(Path('run1/distill.json').read_text())
    del record['values']['init'], record['values']['encoders']
    Path('run1/distill.json').write_text(json.dumps(record))
    assert distill(*SMALL, '--init', 'random', '--encoders', 'separate', '--write-only') == 0
    assert '--init: random there, teacher_slice here' in refused(capsys, work, *SMALL, '--init', 'teacher_slice')
    assert '--encoders: separate there, shared here' in refused(capsys, work, *SMALL, '--encoders', 'shared')


def test_the_encoders_are_written(work: Path) -> None:
    """One for both networks, as the student is narrower and the run short; as the paper has them where asked for."""
    for name, arguments, expected in (('run1', [], 'shared'), ('run2', ['--encoders', 'separate'], None)):
        assert distill(*SMALL, *arguments, '--write-only', '--out', name) == 0
        options = yaml.safe_load(Path(f'{name}/{name}.yml').read_text(encoding='utf-8'))
        assert options['train']['distill_opt'].get('encoders') == expected


def test_a_folder_of_something_else(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('run1').mkdir()
    Path('run1/notes.txt').write_text('mine')
    assert '--out run1: is not empty, and no mipkd distill has filled it' in refused(capsys, work, *SMALL)


@pytest.mark.parametrize(('line', 'says'), [
    (['--hr', 'nowhere'], '--hr nowhere: there is no such folder'),
    (['--hr', 'empty'], '--hr empty: holds no images'),
    (['--val', 'empty'], '--val empty: holds no images'),
    (['--lr', 'photos'], '--lr: the LR images are not 1/2 of the HR images, and the teacher is for x2'),
    (['--lr', '1e-3'], 'For the learning rate write --learning-rate 1e-3'),
    (['--patch', '40'], 'are smaller than --patch 40 LR pixels'),
    (['--patch', '40'], '-> Name a folder of larger images or write --patch '),
    (['--student', 'EDSR:64x16'], 'the student is larger than its teacher'),
    (['--teacher', 'nowhere.pth'], '--teacher nowhere.pth: there is no such file'),
    (['--teacher', 'techer.pth'], '-> Did you mean teacher.pth?'),
    (['--teacher', 'photos/0.png'], 'photos/0.png'),
    (['--out', 'photos/run1'], '--out photos/run1: is inside the folder of --hr'),
    (['--set', 'train:init=random'], '--set train:init=random: this has an option of its own.\n   -> Write --init '
     'random instead'),
    (['--set', 'name=other'], '--set name=other: this has an option of its own.\n   -> Write --out other instead'),
    (['--seed', '99999999999'], 'manual_seed (--seed): must be a whole number from 0 to 4e9'),
    (['--loss', 'none', '--until', '0.5'], '--until 0.5: --loss none does not distill at all'),
    (['--loss', 'none', '--init', 'teacher_slice'], '--init teacher_slice: --loss none trains without the teacher'),
    (['--student', 'SRVGGNetCompact:8x3', '--init', 'teacher_slice'], 'train.init (--init): is teacher_slice, but the '
     'student is of the class SRVGGNetCompact and the teacher of EDSR'),
    (['--out', 'experiments/run1'], 'Name a folder outside of experiments: --out run1'),
    (['--set', 'train'], '--set train: is not an entry of the option file'),
    (['--set', 'train:warmup=1'], 'warmup'),
    (['--taps', '9'], '9 is not between 1 and 3, the number of blocks'),
    (['--taps', '2', '--loss', 'logits'], '--taps 2: --loss logits has no taps'),
    (['--encoders', 'shared', '--loss', 'krnet'], '--encoders shared: only --loss mipkd has encoders'),
    (['--chain', 'no', '--loss', 'krnet'], '--chain no: only --loss mipkd has a chain')])
def test_bad_input(work: Path, line: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'empty').mkdir()
    message = refused(capsys, work, *SMALL, *line)
    assert says in message
    assert 'Traceback' not in message


def test_all_unusable_images_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those to validate on too: of four images, the third is held out."""
    for index in (0, 2):
        cv2.imwrite(f'photos/{index}.png', np.full((64, 80, 3), index, np.uint16))
    says = refused(capsys, work, *SMALL)
    assert all(f'photos/{index}.png: has 16 bits per channel' in says for index in (0, 2))


def test_a_problem_names_the_option_that_was_typed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = refused(capsys, work, *SMALL, '--loss', 'rkd')
    assert 'datasets.train.batch_size_per_gpu (--batch): is 2, and RKDLoss needs 3 images or more' in says
    assert distill(*SMALL, '--loss', 'rkd', '--batch', '3', '--write-only') == 0


def test_a_teacher_for_gray_images(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray = {'type': 'SRVGGNetCompact', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8, 'num_conv': 2, 'upscale': 2}
    torch.save({'params': build_network(gray).state_dict()}, 'gray.pth')
    assert '--teacher gray.pth: takes gray images, and mipkd distill trains on color images' in refused(
        capsys, work, *SMALL, '--teacher', 'gray.pth', '--student', '1/2')


def test_more_threads_than_cores(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        distill(*SMALL, '--threads', '5000')
    assert f'--threads: must be from 1 to {os.cpu_count()}, the cores of this machine, not 5000' in (
        capsys.readouterr().err)


def test_images_smaller_than_any_patch(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite('photos/9.png', np.zeros((20, 20, 3), np.uint8))
    says = refused(capsys, work, '--iterations', '12')
    assert ('1 image of --hr is smaller than the smallest patch, 16 LR pixels (32 HR pixels at x2): photos/9.png.\n'
            '   -> Remove it from the folder') in says


def test_two_at_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mipkd_plugin.utils.locks import alone

    assert distill(*SMALL, '--write-only') == 0
    with alone(work / 'run1/distill.lock'):
        assert distill(*SMALL) == 2
    assert f'another mipkd distill works in this folder (process {os.getpid()}' in capsys.readouterr().err
