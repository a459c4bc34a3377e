"""Apply the KRNets of a training run to one image."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from numpy.typing import NDArray
from torch import Tensor, nn

from mipkd_plugin import config
from mipkd_plugin.archs.krnet_arch import KRNet
from mipkd_plugin.checkpoints.distill_state import load_state
from mipkd_plugin.checkpoints.files import find_checkpoints
from mipkd_plugin.commands.textures.sheet import Caption, TapTextures, draw_sheet, look
from mipkd_plugin.losses.krnet_loss import KRNetLoss
from mipkd_plugin.utils.errors import MipkdError

if TYPE_CHECKING:
    from mipkd_plugin.config import Options


class TextureError(MipkdError):
    """The sheets cannot be drawn; the message says what is wrong, where, and how to fix it."""


@dataclass(frozen=True)
class Seen:
    """The textures at one tap of one KRNetLoss.

    Attributes:
        label: ``tap 2 of 3``; with several losses, the number of the loss comes first.
        file: File name of the sheet.
        pair: (student module path, teacher module path).
        textures: Textures of the image.
    """

    label: str
    file: str
    pair: tuple[str, str]
    textures: TapTextures

    def __str__(self) -> str:
        weights = ' '.join(f'{weight:.3f}' for weight in self.textures.weights)
        return f'{self.label}: {" <- ".join(self.pair)}  weights {weights}  L_kr {self.textures.distance:.4f}'


def read_crop(path: Path, size: int, window: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Read an image and cut out its middle.

    Args:
        path: Image file.
        size: Largest side of the crop in pixels; 0 takes the whole image.
        window: Window size; both sides of the crop are multiples of it.

    Returns:
        The crop, RGB in [0, 1], (H, W, 3), float32; and (height, width) of the whole image.

    Raises:
        TextureError: The image cannot be read, or the crop does not fit.
    """
    if not os.path.isfile(path):
        raise TextureError(f'--image {path}: {"is not a file" if os.path.exists(path) else "does not exist"}; '
                           'give a low-resolution image, PNG or JPG')
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise TextureError(f'--image {path}: cannot be read as an image; give a PNG or JPG that is not damaged')
    if size < 0 or 0 < size < window:
        raise TextureError(f'--size {size}: must be 0 (the whole image), or at least {window}'
                           + (', the window size of the networks' if window > 1 else ''))
    height, width = image.shape[:2]
    if min(height, width) < window:
        raise TextureError(f'--image {path}: is {width}×{height}, smaller than one window of the networks, '
                           f'{window}×{window}; give a larger image')
    rows, columns = (min(side, size or side) // window * window for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = image[top:top + rows, left:left + columns, ::-1].astype(np.float32) / 255
    return np.ascontiguousarray(crop), (height, width)


def choose_checkpoint(opt: Options, iteration: int | None) -> tuple[str, Path, Path]:
    """Find the checkpoint to use.

    Args:
        opt: Options of the run.
        iteration: Iteration of the checkpoint; None takes ``latest``, or else the highest iteration.

    Returns:
        Label of the checkpoint, file of the student, file of the distillation state.

    Raises:
        TextureError: There is no checkpoint, or none with this iteration.
    """
    folder = config.models_folder(opt)
    found = find_checkpoints(folder)
    if not found:
        raise TextureError(f'{folder}: holds no net_g_<iter>.pth with a distill_<iter>.pth beside it; looked in '
                           f'{Path.cwd()}; train first: basicsr train -opt {opt.source}')
    label = list(found)[-1] if iteration is None else str(iteration)
    if label not in found:
        raise TextureError(f'--iter {iteration}: {folder} does not hold both net_g_{label}.pth and '
                           f'distill_{label}.pth; valid here: {", ".join(found)}; without --iter the last of these')
    return label, *found[label]


def require_krnet(opt: Options) -> None:
    """Check that the options train KRNets on color images.

    Args:
        opt: Options of the run.

    Raises:
        TextureError: There is no KRNetLoss, or the images are not in color.
    """
    entries = [entry for _, entry in config.distillation_entries(opt)]
    kinds = [entry.get('type') if isinstance(entry, Mapping) else entry for entry in entries]
    if not kinds:
        raise TextureError(_no_krnet(opt, 'has no train.distill_opt'))
    classes = [dict(iter(LOSS_REGISTRY)).get(kind) for kind in kinds]
    if not any(isinstance(found, type) and issubclass(found, KRNetLoss) for found in classes):
        raise TextureError(_no_krnet(opt, f'train.distill_opt holds only {", ".join(map(str, kinds))}'))
    if config.probe_shape(opt)[0] != 3:
        raise TextureError(f'{opt.source}: datasets.train.color is y, but mipkd textures needs networks for RGB '
                           'images; give the option file of a run that trains on color images')


def _no_krnet(opt: Options, reason: str) -> str:
    return (f'{opt.source}: no KRNetLoss, {reason}; give the option file of a run with one, '
            'such as options/train_KRNet_EDSR_x2_small.yml')


def see(opt: Options, weights: Path, state: Path, lq: Tensor) -> list[Seen]:
    """Load a checkpoint and apply all of its KRNets to an image.

    Args:
        opt: Options of the run.
        weights: ``net_g_<iter>.pth``; its ``params`` are the student that the KRNets trained with.
        state: ``distill_<iter>.pth``.
        lq: The image (1, 3, H, W), RGB in [0, 1].

    Returns:
        The textures of each tap, loss by loss.

    Raises:
        OptionError: Student or teacher do not fit the options, or a file is damaged.
        TapError: The taps do not fit the networks.
        StateError: The state belongs to another teacher or other losses.
    """
    student, distillation = config.load_run(opt, weights, state)
    losses = nn.ModuleList(distillation.losses.values()).eval()
    load_state(state, losses, distillation.fingerprint, 0, distillation.learned(False))
    nets = distillation.attach_all(student)
    with torch.no_grad():
        of_student = next(iter(nets.values())).student(lq).features
        of_teachers = {name: nets[name].teacher(lq).features for name in nets}
    krnets = [(loss, name) for loss, name in zip(losses, distillation.chosen) if isinstance(loss, KRNetLoss)]
    seen = []
    for number, (loss, teacher) in enumerate(krnets, 1):
        which, prefix = ('', '') if len(krnets) == 1 else (f'KRNetLoss {number}, ', f'loss_{number}_')
        for tap, (network, (s, t)) in enumerate(zip(loss.networks, loss.pairs), 1):
            textures = look(cast(KRNet, network), of_student[s], of_teachers[teacher][t])
            seen.append(Seen(f'{which}tap {tap} of {len(loss.pairs)}', f'{prefix}tap_{tap}.png', (s, t), textures))
    return seen


def draw(opt: Options, args: argparse.Namespace) -> int:
    """Draw one sheet per tap. Computes everything before writing anything.

    Args:
        opt: Options of the run.
        args: With ``image``, ``iter``, ``out`` and ``size``.

    Returns:
        Exit code 0.

    Raises:
        MipkdError: Options, image and checkpoint do not fit together.
        TextureError: The folder for the sheets cannot be used.
    """
    require_krnet(opt)
    crop, (height, width) = read_crop(args.image, args.size, config.window_size(opt))
    label, weights, state = choose_checkpoint(opt, args.iter)
    out = args.out or Path('results') / f'textures_{opt["name"]}_{label}_{args.image.stem}'
    if os.path.exists(out) and (not os.path.isdir(out) or any(out.iterdir())):
        raise TextureError(f'--out {out}: {"is not empty" if os.path.isdir(out) else "is a file"}; '
                           'choose another folder with --out, or delete this one')
    seen = see(opt, weights, state, torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TextureError(f'--out {out}: cannot be created ({error.strerror}); choose another folder') from error
    part = f'{crop.shape[1]}×{crop.shape[0]}'
    where = part if (height, width) == crop.shape[:2] else f'middle {part} of {width}×{height}'
    iteration = 'latest iteration' if label == 'latest' else f'iteration {label}'
    for one in seen:
        caption = Caption(f'{opt["name"]}, {iteration}, {one.label}', [
            f'student {one.pair[0]}  ←  teacher {one.pair[1]}',
            f'image {args.image.name}, {where} LR pixels',
            f'L_kr of this tap and image: {one.textures.distance:.4f}   (sum of weight × mean difference)'])
        draw_sheet(one.textures, crop, caption, out / one.file)
        sys.stdout.write(f'{out / one.file}\n  {one}\n')
    return 0
