"""Makes the option files of the papers: train_{MiPKD,KRNet,MTKD}_*_x*.yml and test_MiPKD_*_x*.yml.

``python options/make.py`` writes the files beside itself. ``--check`` writes nothing; it names the files that differ.
Templates hold what files share. What differs stands below, in make_mtkd.py and in make_real_world.py (real-world SR).
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from string import Template
from textwrap import indent

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Method:
    """What differs between methods. Each entry fills the placeholder of its name in the templates.

    Attributes:
        title: The method in words.
        step_time: What the paper says of the time of a step.
        status: What has been done with the published figures so far.
        losses: The entry ``train.distill_opt``.
    """

    title: str
    step_time: str
    status: str
    losses: str


@dataclass(frozen=True)
class Scale:
    """What differs between the scales of one architecture.

    Attributes:
        teacher_file: The teacher's file in experiments/pretrained_models.
        teacher_size: Number of parameters of the teacher.
        student_size: Number of parameters of the student.
        expected: The published figures, for each method.
        upsampling: If training may start from the x2 student: what becomes of its upsampling layers.
    """

    teacher_file: str
    teacher_size: str
    student_size: str
    expected: Mapping[str, str]
    upsampling: str = ''


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of one architecture.

    Attributes:
        change: What makes the student smaller.
        train_model: BasicSR's ``model_type`` for training.
        test_model: BasicSR's ``model_type`` for a test.
        origin: Where the teacher's file comes from.
        network: Arguments of the architecture, with placeholders where student and teacher differ.
        student: What fills them for the student.
        teacher: What fills them for the teacher.
        scales: What differs between the scales.
    """

    change: str
    train_model: str
    test_model: str
    origin: str
    network: str
    student: Mapping[str, str]
    teacher: Mapping[str, str]
    scales: Mapping[int, Scale]


def dckd(mipkd: str, scratch: str, logits: str, teacher: str, more: str = '') -> dict[str, str]:
    """What each method's file says of Urban100: Y-PSNR in dB, table 2 of DCKD; ``more`` continues MiPKD's line."""
    others = f'scratch {scratch}, logits {logits}, teacher {teacher}'
    return {'MiPKD': f'Urban100 {mipkd} dB Y-PSNR ({others}; DCKD, table 2){more}',
            'KRNet': f'to compare with, Urban100 Y-PSNR: {others} dB (DCKD, table 2).'}


METHODS = {
    'MiPKD': Method(
        title='MiPKD', step_time=' (paper: 0.38 s a step more than logits-KD)',
        status='Not reproduced here yet.',
        losses='''\
    type: MiPKDLoss
    taps: 4  # evenly spaced; our choice'''),
    'KRNet': Method(
        title='KRNets (meta knowledge distillation, arXiv 2207.08356)', step_time='',
        status='The tables of the KRNets paper could not be read. Not trained here yet.',
        losses='''\
    - type: KRNetLoss
      taps: 4  # evenly spaced; our choice
      loss_weight: 20.0
      meta_every: 5
    - type: LogitsKDLoss'''),
}

PAIRS = {
    'EDSR': Pair(
        change='256 -> 64 channels',
        train_model='DistillModel', test_model='SRModel',
        origin='BasicSR, docs/ModelZoo.md, "Image SR Official Models"',
        network='''\
type: EDSR
num_in_ch: 3
num_out_ch: 3
num_feat: $num_feat
num_block: 32
upscale: $scale
res_scale: $res_scale
img_range: 255.
rgb_mean: [0.4488, 0.4371, 0.4040]''',
        student={'num_feat': '64', 'res_scale': '0.1  # our choice: as the teacher'},
        teacher={'num_feat': '256', 'res_scale': '0.1'},
        scales={
            2: Scale('EDSR_Lx2_f256b32_DIV2K_official-be38e77d.pth', '40.73M', '2.55M', {
                'MiPKD': 'Urban100 32.56 dB Y-PSNR (MiPKD, ICLR 2025); the same student from scratch about 0.6 dB less',
                'KRNet': 'no figure to compare with at hand.'}),
            3: Scale('EDSR_Lx3_f256b32_DIV2K_official-3660f70d.pth', '43.68M', '2.74M', {
                'MiPKD': 'no figure at hand; see x2 and x4',
                'KRNet': 'no figure to compare with at hand.'},
                upsampling='its upsampling layer has another shape and stays random'),
            4: Scale('EDSR_Lx4_f256b32_DIV2K_official-76ee1c8f.pth', '43.09M', '2.70M', {
                'MiPKD': 'Urban100 26.46 dB Y-PSNR (MiPKD, ICLR 2025); the same student from scratch 26.21',
                'KRNet': 'to compare with, Urban100 Y-PSNR: scratch 26.21 dB (MiPKD, ICLR 2025).'},
                upsampling='its first upsampling layer is shared, the second stays random'),
        }),
    'RCAN': Pair(
        change='20 -> 6 blocks in each group',
        train_model='DistillModel', test_model='SRModel',
        origin='BasicSR, docs/ModelZoo.md, the folder of official models '
               "(the authors' RCAN_BIX$scale.pt, renamed layers)",
        network='''\
type: RCAN
num_in_ch: 3
num_out_ch: 3
num_feat: 64
num_group: 10
num_block: $num_block
squeeze_factor: 16
upscale: $scale
res_scale: 1
img_range: 255.
rgb_mean: [0.4488, 0.4371, 0.4040]''',
        student={'num_block': '6'},
        teacher={'num_block': '20'},
        scales={
            2: Scale('RCAN_BIX2-official.pth', '15.44M', '5.02M', dckd('32.83', '32.63', '32.67', '33.34')),
            3: Scale('RCAN_BIX3-official.pth', '15.63M', '5.21M', dckd('28.76', '28.59', '28.62', '29.09')),
            4: Scale('RCAN_BIX4-official.pth', '15.59M', '5.17M', dckd('26.55', '26.36', '26.49', '26.82')),
        }),
    'SwinIR': Pair(
        change='180 -> 60 channels, 6 -> 4 RSTB',
        train_model='SwinIRDistillModel', test_model='SwinIRModel',
        origin='https://github.com/JingyunLiang/SwinIR/releases, as named in BasicSR, options/test/SwinIR',
        network='''\
type: SwinIR
upscale: $scale
in_chans: 3
img_size: $img_size
window_size: 8
img_range: 1.
depths: $depths
embed_dim: $embed_dim
num_heads: $num_heads
mlp_ratio: 2
upsampler: pixelshuffle
resi_connection: 1conv''',
        student={'img_size': '48', 'embed_dim': '60', 'depths': '[6, 6, 6, 6]', 'num_heads': '[6, 6, 6, 6]'},
        teacher={'img_size': '48  # the file holds attention masks of this size', 'embed_dim': '180',
                 'depths': '[6, 6, 6, 6, 6, 6]', 'num_heads': '[6, 6, 6, 6, 6, 6]'},
        scales={
            2: Scale('001_classicalSR_DIV2K_s48w8_SwinIR-M_x2.pth', '11.75M', '1.09M',
                     dckd('32.46', '32.05', '32.09', '33.40')),
            3: Scale('001_classicalSR_DIV2K_s48w8_SwinIR-M_x3.pth', '11.94M', '1.27M',
                     dckd('28.47', '28.20', '28.23', '29.29')),
            4: Scale('001_classicalSR_DIV2K_s48w8_SwinIR-M_x4.pth', '11.90M', '1.24M',
                     dckd('26.37', '26.15', '26.15', '27.07', more=(
                         ';\n#           Set5 32.39/.8971, Set14 28.76/.7854, B100 27.68/.7403 '
                         '(scratch 32.31/.8955, 28.67/.7833, 27.61/.7379)'))),
        }),
}

START = '''\
  # The EDSR protocol starts from the x2 student: train options/train_${method}_EDSR_x2.yml first, then use
  #   pretrain_network_g: experiments/${method}_EDSR_x2/models/net_g_latest.pth
  #   param_key_g: params_ema
  #   strict_load_g: false  # $upsampling
'''


def fill(text: str, values: Mapping[str, object]) -> str:
    """Fill every placeholder of the text; a KeyError names one that has no value."""
    return Template(text).substitute(values)


def option_file(kind: str, method: str, arch: str, scale: int) -> str:
    """Make the text of one option file; ``kind`` is train or test."""
    pair = PAIRS[arch]
    row = pair.scales[scale]
    values = {
        **vars(METHODS[method]), **vars(pair), **vars(row),
        'name': f'{method}_{arch}_x{scale}', 'arch': arch, 'scale': scale, 'gt_size': 48 * scale,
        'origin': fill(pair.origin, {'scale': scale}),
        'student': indent(fill(pair.network, {**pair.student, 'scale': scale}), ' ' * 2),
        'teacher': indent(fill(pair.network, {**pair.teacher, 'scale': scale}), ' ' * 4),
        'expected': row.expected[method],
        'start': fill(START, {**vars(row), 'method': method}) if row.upsampling else '',
    }
    return fill((FOLDER / f'make_{kind}.template').read_text(encoding='utf-8'), values)


def family() -> dict[str, bytes]:
    """Make all files: their names and contents."""
    kinds = [('train', 'MiPKD'), ('train', 'KRNet'), ('test', 'MiPKD')]
    own = {f'{kind}_{method}_{arch}_x{scale}.yml': option_file(kind, method, arch, scale).encode()
           for kind, method in kinds for arch, pair in PAIRS.items() for scale in pair.scales}
    return {**own, **run_path(str(FOLDER / 'make_mtkd.py'))['family'](PAIRS),
            **run_path(str(FOLDER / 'make_real_world.py'))['family']()}


def differing(folder: Path) -> list[str]:
    """Name the files that are missing in the folder, or are not as they would be made."""
    return [name for name, content in family().items()
            if not (folder / name).is_file() or (folder / name).read_bytes() != content]


def write(folder: Path) -> None:
    """Write all files into the folder."""
    for name, content in family().items():
        (folder / name).write_bytes(content)


def main() -> str | None:
    """Do what the command line asks for, and return what ``sys.exit`` takes: a complaint, or None."""
    parser = argparse.ArgumentParser(description="Makes the option files of the papers' pairs.")
    parser.add_argument('--check', action='store_true', help='write nothing; name the files that differ, if any')
    if not parser.parse_args().check:
        write(FOLDER)
    return '\n'.join(differing(FOLDER)) or None


if __name__ == '__main__':
    sys.exit(main())
