"""The stages of ``mipkd demo``: images, trainings, measuring, table and picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from basicsr.archs import build_network

from mipkd_plugin.commands.demo import report
from mipkd_plugin.commands.demo.report import Row
from mipkd_plugin.inference.pictures import as_picture, enlarged
from mipkd_plugin.preparation.pairs import prepare
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.files import write_text

SCALE = 2
OPTIONS = {report.CONTROL: Path('options/demo_none_EDSR_x2.yml'),
           report.EQUAL_TIME: Path('options/demo_none_long_EDSR_x2.yml'),
           report.DISTILLED: Path('options/demo_MiPKD_EDSR_x2.yml')}
TEACHER = Path('experiments/pretrained_models/EDSR_x2_demo_teacher.pth')
DATA = Path('datasets/demo_x2')
RESULTS = Path('results/demo')
# photographs that every installation of scikit-image contains
TRAIN = ('brick.png', 'camera.png', 'grass.png', 'gravel.png', 'ihc.png', 'motorcycle_left.png', 'motorcycle_right.png')
# the options were chosen on these; never trained on
VALIDATION = ('coins.png', 'rocket.jpg')
# held out; (top, left) of the enlarged square, where the teacher gains most over bicubic
TEST = {'astronaut.png': (338, 266), 'chelsea.png': (215, 97), 'coffee.png': (270, 12)}
CROP = 64


class DemoError(MipkdError):
    """The demo cannot go on; the message says why and what to do."""


def prepare_images(source: Path, data: Path) -> None:
    """Copy scikit-image's photographs and make the training, validation and test pairs of them.

    Args:
        source: Folder with the photographs.
        data: Folder to fill: ``source``, ``train`` (LMDBs of tiles), ``val`` and ``test`` (folders).

    Raises:
        DemoError: A photograph is not there.
    """
    missing = [name for name in (*TRAIN, *VALIDATION, *TEST) if not os.path.isfile(source / name)]
    if missing:
        raise DemoError(f'{source} is missing {", ".join(missing)}, which scikit-image installs; '
                        'reinstall it: pip install --force-reinstall scikit-image')
    for part, names in (('train', TRAIN), ('val', VALIDATION), ('test', TEST)):
        (data / 'source' / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            target = data / 'source' / part / name
            if not os.path.exists(target):
                shutil.copy2(source / name, target)
    prepare(data / 'source' / 'train', SCALE, data / 'train', lmdb=True, crop=64, step=32, workers=1)
    for part in ('val', 'test'):
        prepare(data / 'source' / part, SCALE, data / part, workers=1)


def train(option: Path, iterations: int | None) -> float:
    """Run ``basicsr train`` as a user would, showing its progress lines only.

    Args:
        option: Option file.
        iterations: Train this long, with the schedule scaled to it, instead of as the file says.

    Returns:
        Seconds it took, start and validation included.

    Raises:
        DemoError: The command is missing or failed; the end of its output is in the message.
    """
    basicsr = shutil.which('basicsr', path=str(Path(sys.executable).parent))
    if basicsr is None:
        raise DemoError(f'no basicsr command beside {sys.executable}; install: pip install -e .')
    arguments = ['train', '-opt', str(option)]
    if iterations:
        arguments += ['--force_yml', f'train:total_iter={iterations}',
                      f'train:scheduler:periods=[{iterations}]']
    print(f'\n$ basicsr {" ".join(arguments)}', flush=True)
    tail: deque[str] = deque(maxlen=30)
    start = time.monotonic()
    # one thread: networks this small gain little from a second one, and lose tenfold when it has to wait for a core
    environment = {'OMP_NUM_THREADS': '1', **os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen([basicsr, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as process:
        try:
            for line in process.stdout or ():
                tail.append(line)
                if '[eta:' in line or '# psnr:' in line:
                    print(line.rstrip(), flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise DemoError(f'basicsr train -opt {option} ended with code {process.returncode}:\n{"".join(tail)}')
    return time.monotonic() - start


def upscale(net: torch.nn.Module, lr: np.ndarray) -> np.ndarray:
    """Super-resolve one image (uint8 BGR)."""
    rgb = torch.from_numpy(lr[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.no_grad():
        output = net(rgb)[0]
    return as_picture(output)


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise DemoError(f'{path} is missing or damaged; delete {DATA} and run the demo again')
    return image


def load_networks(options: dict[str, dict[str, Any]]) -> dict[str, torch.nn.Module]:
    """The students as BasicSR saved them (their moving average), and the teacher, in eval mode."""
    parts = {method: (own['network_g'], f'experiments/{own["name"]}/models/net_g_latest.pth', 'params_ema')
             for method, own in options.items()}
    teacher = options[report.DISTILLED]['teacher']
    parts[report.TEACHER] = teacher['network'], teacher['weights'], teacher['param_key']
    networks = {}
    for method, (architecture, weights, key) in parts.items():
        net = build_network(architecture).eval()
        net.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True)[key])
        networks[method] = net
    return networks


def evaluate(options: dict[str, dict[str, Any]],
             spent: dict[str, tuple[int, float]]) -> tuple[list[Row], list[np.ndarray]]:
    """Measure bicubic interpolation, the students and the teacher on the test images.

    Args:
        options: The students' options by the method's name.
        spent: Iterations and seconds of each student's training.

    Returns:
        The rows of the table, and the HR images (uint8 BGR).
    """
    truth, small = ([_read(DATA / 'test' / folder / f'{Path(name).stem}.png') for name in TEST]
                    for folder in ('HR', f'LRbicx{SCALE}'))
    rows = [report.measure(report.BICUBIC, [enlarged(lr, SCALE)[1] for lr in small], truth, SCALE)]
    for method, net in load_networks(options).items():
        images = [upscale(net, lr) for lr in small]
        count = sum(parameter.numel() for parameter in net.parameters())
        iterations, seconds = spent.get(method, (None, None))
        rows.append(report.measure(method, images, truth, SCALE, parameters=count, iterations=iterations,
                                   seconds=seconds))
    return rows, truth


def lengths(options: dict[str, dict[str, Any]], iterations: int | None) -> dict[str, int]:
    """Iterations of each run; ``iterations`` scales all of them alike."""
    own = {method: option['train']['total_iter'] for method, option in options.items()}
    if not iterations:
        return own
    return {method: round(iterations * number / own[report.CONTROL]) for method, number in own.items()}


def show(iterations: int | None = None) -> int:
    """Carry out ``mipkd demo`` in the project's folder.

    Args:
        iterations: Length of the trainings; None: as the option files say.

    Returns:
        Exit code.

    Raises:
        DemoError: Something is missing, or a training run failed.
    """
    from skimage import data as photographs

    start = time.monotonic()
    absent = [str(path) for path in (*OPTIONS.values(), TEACHER) if not os.path.isfile(path)]
    if absent:
        raise DemoError(f'{" and ".join(absent)} not found in {Path.cwd()}; run the demo in the project folder')
    print(f'{DATA}: photographs that come with scikit-image, {len(TRAIN)} to train on, '
          f'{len(VALIDATION)} to validate and {len(TEST)} to test')
    prepare_images(Path(photographs.__file__).parent, DATA)
    options = {method: yaml.safe_load(path.read_text(encoding='utf-8')) for method, path in OPTIONS.items()}
    spent = {method: (number, train(OPTIONS[method], number if iterations else None))
             for method, number in lengths(options, iterations).items()}
    rows, truth = evaluate(options, spent)
    table = f'{report.format_table(rows)}\n\n{report.conclude(rows)}'
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(RESULTS / 'table.md', f'{table}\n')
    names = [Path(name).stem for name in TEST]
    report.draw_comparison(rows, dict(zip(names, truth)), list(TEST.values()), CROP, RESULTS / 'comparison.png')
    print(f'\nx{SCALE}, images never trained on ({", ".join(names)}), PSNR in dB and SSIM of Y; training: seconds '
          f'with start and validations:\n\n{table}\n')
    print(f'Written to {RESULTS}: table.md, comparison.png. The demo took {time.monotonic() - start:.0f} s.')
    return 0
