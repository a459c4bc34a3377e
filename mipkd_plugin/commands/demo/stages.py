"""``mipkd demo``: a complete small distillation, from photographs to a table and a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from basicsr.archs import build_network
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.matlab_functions import imresize

from mipkd_plugin.commands.prepare.pairs import prepare
from mipkd_plugin.utils.errors import MipkdError

SCALE = 4
CONTROL = Path('options/demo_none_SwinIR_x4.yml')
DISTILLED = Path('options/demo_MiPKD_SwinIR_x4.yml')
TEACHER = Path('experiments/pretrained_models/SwinIR_x4_demo_teacher.pth')
DATA = Path('datasets/demo')
RESULTS = Path('results/demo')
# photographs that every installation of scikit-image contains
TRAIN = ('brick.png', 'camera.png', 'coins.png', 'grass.png', 'gravel.png', 'ihc.png', 'motorcycle_left.png',
         'motorcycle_right.png', 'rocket.jpg')
# never trained on; top, left of the square that comparison.png shows enlarged
TEST = {'astronaut.png': (60, 172), 'chelsea.png': (66, 124), 'coffee.png': (224, 322)}
CROP = 96


class DemoError(MipkdError):
    """The demo cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Row:
    """One line of the table, with the images it was measured on (uint8 BGR)."""

    method: str
    psnr: list[float]
    ssim: list[float]
    images: list[np.ndarray]
    parameters: int | None = None
    seconds: float | None = None


def prepare_images(source: Path, data: Path) -> None:
    """Copy scikit-image's photographs and make the training and test pairs of them.

    Args:
        source: Folder with the photographs.
        data: Folder to fill: ``source``, ``train`` (LMDBs of tiles) and ``test`` (folders).

    Raises:
        DemoError: A photograph is not there.
    """
    missing = [name for name in (*TRAIN, *TEST) if not (source / name).is_file()]
    if missing:
        raise DemoError(f'{source} lacks {", ".join(missing)}, which scikit-image brings along; '
                        'reinstall it: pip install --force-reinstall scikit-image')
    for part, names in (('train', TRAIN), ('test', TEST)):
        (data / 'source' / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            target = data / 'source' / part / name
            if not target.exists():
                shutil.copy2(source / name, target)
    prepare(data / 'source' / 'train', SCALE, data / 'train', lmdb=True, crop=128, step=64, workers=1)
    prepare(data / 'source' / 'test', SCALE, data / 'test', workers=1)


def train(option: Path, iterations: int | None) -> float:
    """Run ``basicsr train`` as a user would, showing its progress lines only.

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
        arguments += ['--force_yml', f'train:total_iter={iterations}']
    print(f'\n$ basicsr {" ".join(arguments)}', flush=True)
    tail: deque[str] = deque(maxlen=30)
    start = time.monotonic()
    # one thread: networks this small gain little from a second one, and lose tenfold when it has to wait for a core
    environment = {'OMP_NUM_THREADS': '1', **os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen([basicsr, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as process:
        for line in process.stdout or ():
            tail.append(line)
            if '[eta:' in line or '# psnr:' in line:
                print(line.rstrip(), flush=True)
    if process.returncode:
        raise DemoError(f'basicsr train -opt {option} ended with code {process.returncode}:\n{"".join(tail)}')
    return time.monotonic() - start


def upscale(net: torch.nn.Module, lr: np.ndarray, window: int) -> np.ndarray:
    """Super-resolve one image, mirrored to a multiple of the window as the toolbox's SwinIRModel does.

    Args:
        net: Network in eval mode.
        lr: uint8 BGR, (H, W, 3).
        window: Window size of the network.

    Returns:
        uint8 BGR, (H * 4, W * 4, 3).
    """
    height, width = lr.shape[:2]
    rgb = torch.from_numpy(lr[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    padded = torch.nn.functional.pad(rgb, (0, -width % window, 0, -height % window), 'reflect')
    with torch.no_grad():
        output = net(padded)[0, :, :height * SCALE, :width * SCALE]
    return _to_uint8(output.numpy().transpose(1, 2, 0)[:, :, ::-1])


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise DemoError(f'{path} is missing or damaged; delete {DATA} and run the demo again')
    return image


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rint(image.clip(0, 1) * 255).astype(np.uint8))


def measure(method: str, images: list[np.ndarray], truth: list[np.ndarray], **known: Any) -> Row:
    """PSNR and SSIM of the Y channel, borders of 4 pixels left out, by the toolbox's own functions."""
    psnr, ssim = ([function(image, hr, crop_border=SCALE, test_y_channel=True)
                   for image, hr in zip(images, truth)] for function in (calculate_psnr, calculate_ssim))
    return Row(method, psnr, ssim, images, **known)


def load_networks() -> dict[str, tuple[torch.nn.Module, int]]:
    """Both students as the toolbox saved them (their moving average), and the teacher.

    Returns:
        Network in eval mode and its window size, by the method's name.
    """
    control, distilled = (yaml.safe_load(path.read_text(encoding='utf-8')) for path in (CONTROL, DISTILLED))
    latest, teacher = 'experiments/{name}/models/net_g_latest.pth', distilled['teacher']
    parts = {'student': (control['network_g'], latest.format_map(control), 'params_ema'),
             'student, MiPKD': (distilled['network_g'], latest.format_map(distilled), 'params_ema'),
             'teacher': (teacher['network'], teacher['weights'], teacher['param_key'])}
    networks = {}
    warnings.filterwarnings('ignore', message='torch.meshgrid')  # of the toolbox's SwinIR
    for method, (options, weights, key) in parts.items():
        net = build_network(options).eval()
        net.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True)[key])
        networks[method] = net, options['window_size']
    return networks


def evaluate(seconds: dict[str, float]) -> tuple[list[Row], list[np.ndarray]]:
    """Measure bicubic interpolation, both students and the teacher on the test images.

    Args:
        seconds: Training time by the method's name.

    Returns:
        The rows of the table, and the HR images (uint8 BGR).
    """
    truth, small = ([_read(DATA / 'test' / folder / f'{Path(name).stem}.png') for name in TEST]
                    for folder in ('HR', f'LRbicx{SCALE}'))
    enlarged = [_to_uint8(imresize(lr.astype(np.float32) / 255, SCALE)) for lr in small]
    rows = [measure('bicubic', enlarged, truth)]
    for method, (net, window) in load_networks().items():
        images = [upscale(net, lr, window) for lr in small]
        count = sum(parameter.numel() for parameter in net.parameters())
        rows.append(measure(method, images, truth, parameters=count, seconds=seconds.get(method)))
    return rows, truth


def format_table(rows: Sequence[Row]) -> str:
    """The comparison as a Markdown table; PSNR in dB and SSIM are means over the test images."""
    cells = [['method', 'PSNR', 'SSIM', 'parameters', 'training'], ['---'] * 5]
    for row in rows:
        parameters = '' if row.parameters is None else f'{row.parameters:,}'
        took = '' if row.seconds is None else f'{row.seconds:.0f} s'
        cells.append([row.method, f'{np.mean(row.psnr):.2f}', f'{np.mean(row.ssim):.4f}', parameters, took])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in cells]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def draw_comparison(rows: Sequence[Row], truth: Sequence[np.ndarray], path: Path) -> None:
    """Draw the same detail of each test image as every method shows it, with the PSNR of the image."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(2.2 * (len(rows) + 2), 2.55 * len(TEST)), dpi=120, layout='constrained')
    axes = figure.subplots(len(TEST), len(rows) + 2, squeeze=False)
    for line, (hr, (top, left)) in enumerate(zip(truth, TEST.values())):
        panels = [(row.method, row.images[line], f'{row.psnr[line]:.2f} dB') for row in rows]
        panels.append(('original', hr, ''))
        axes[line, 0].imshow(hr[:, :, ::-1])
        axes[line, 0].add_patch(Rectangle((left, top), CROP, CROP, fill=False, edgecolor='yellow', lw=2))
        for axis, (title, image, note) in zip(axes[line, 1:], panels):
            axis.imshow(image[top:top + CROP, left:left + CROP, ::-1], interpolation='nearest')
            axis.set_title(f'{title}\n{note}' if line == 0 else note, fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path)


def show(iterations: int | None = None) -> int:
    """Carry out ``mipkd demo`` in the project's folder; returns the exit code.

    Args:
        iterations: Length of the trainings; None: as the option files say.

    Raises:
        DemoError: Something is missing, or a training run failed.
    """
    from skimage import data as photographs

    start = time.monotonic()
    absent = [str(path) for path in (CONTROL, DISTILLED, TEACHER) if not path.is_file()]
    if absent:
        raise DemoError(f'{" and ".join(absent)} not found in {Path.cwd()}; run the demo in the project folder')
    print(f'{DATA}: photographs that come with scikit-image, {len(TRAIN)} to train on, {len(TEST)} held out')
    prepare_images(Path(photographs.__file__).parent, DATA)
    runs = {'student': CONTROL, 'student, MiPKD': DISTILLED}
    seconds = {method: train(option, iterations) for method, option in runs.items()}
    rows, truth = evaluate(seconds)
    table = format_table(rows)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / 'table.md').write_text(f'{table}\n', encoding='utf-8')
    draw_comparison(rows, truth, RESULTS / 'comparison.png')
    held_out = ', '.join(Path(name).stem for name in TEST)
    print(f'\nx{SCALE}, images never trained on ({held_out}), PSNR in dB and SSIM of Y:\n\n{table}\n')
    print(f'Written to {RESULTS}: table.md, comparison.png. The demo took {time.monotonic() - start:.0f} s.')
    return 0
