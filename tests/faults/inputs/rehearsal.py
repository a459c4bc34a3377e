"""What BasicSR finds after hours, or never: data sets, image sizes, metrics, losses and loggers that do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from helpers import STUDENTS, TEACHERS

from faults.harness import BadInput
from mipkd_plugin.config.remedies import REMOVE

PLAIN = {'model_type': 'SRModel', 'teacher': REMOVE, 'train.distill_opt': REMOVE}
SMALL = {'datasets.val.dataroot_gt': 'val/HR', 'datasets.val.dataroot_lq': 'val/LR'}
RRDB = {**PLAIN, 'network_g': {**STUDENTS['RRDBNet'], 'scale': 2}}
ONE_CHANNEL = {**PLAIN, 'network_g': {'type': 'MSRResNet', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8,
                                      'num_block': 2, 'upscale': 2}}
SINGLE = {'name': 'single', 'type': 'SingleImageDataset', 'dataroot_lq': 'LRbicx2', 'io_backend': {'type': 'disk'}}
VGG = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1.0}}
WINDOWS = [{**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8},
           {**TEACHERS['SwinIR'], 'window_size': 12, 'img_size': 12}]


def validation(*sizes: tuple[int, int]) -> Callable[[Path], None]:
    """Write val/HR and val/LR (scale 2) with LR images of these sizes."""
    def write(folder: Path) -> None:
        rng = np.random.default_rng(1)
        for index, size in enumerate(sizes):
            for name, factor in (('HR', 2), ('LR', 1)):
                (folder / 'val' / name).mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 256, (*(factor * side for side in size), 3), dtype=np.uint8)
                cv2.imwrite(str(folder / 'val' / name / f'{index}.png'), image)

    return write


def lmdbs(folder: Path) -> None:
    for name in ('HR', 'LRbicx2'):
        names = [str(number) for number in range(4)]
        make_lmdb_from_imgs(str(folder / name), str(folder / f'{name}.lmdb'), [f'{n}.png' for n in names], names,
                            multiprocessing_read=False)


def cut_lmdb(folder: Path) -> None:
    lmdbs(folder)
    path = folder / 'LRbicx2.lmdb' / 'data.mdb'
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def listing(folder: Path) -> None:
    (folder / 'home' / 'list.txt').write_text('0.png\n1.png\n')


def window_teacher(folder: Path) -> None:
    torch.save({'params': build_network(WINDOWS[1]).state_dict()}, folder / 'teacher.pth')


def notes(folder: Path) -> None:
    shutil.copytree(folder / 'LRbicx2', folder / 'LR')
    (folder / 'LR' / 'notes.txt').write_text('no image')


def metric(**options: Any) -> dict[str, Any]:
    return {'val.metrics': {'m': {'crop_border': 2, **options}}}


SIZES = [
    BadInput('SwinIR without padding', 'model_type', (
        'SRModel validates without padding, and SwinIR of network_g cannot run on 0.png of datasets.val '
        '(LR 23×25)',
        'write model_type: SwinIRModel'),
        {**SMALL, **PLAIN, 'network_g': STUDENTS['SwinIR']}, validation((23, 25), (24, 24))),
    BadInput('SwinIR without padding, whose window is the default', 'model_type', (
        'SRModel validates without padding', 'write model_type: SwinIRModel, and write window_size: 7'),
        {**SMALL, **PLAIN, 'network_g': {k: v for k, v in STUDENTS['SwinIR'].items() if k != 'window_size'},
         'network_g.img_size': 7, 'datasets.train.gt_size': 14}, validation((23, 25))),
    BadInput('SwinIR without padding in a test', 'model_type', (
        'SRModel validates without padding', 'write model_type: SwinIRModel'),
        {'network_g': TEACHERS['SwinIR'], 'datasets.test.dataroot_gt': 'val/HR',
         'datasets.test.dataroot_lq': 'val/LR'},
        lambda folder: (validation((23, 25))(folder), torch.save(
            {'params': build_network(TEACHERS['SwinIR']).state_dict()}, folder / 'teacher.pth')), 'test'),
    BadInput('RRDBNet at scale 2 with odd sizes', 'datasets.val', (
        'RRDBNet of network_g cannot run on 1.png of datasets.val (LR 24×23): AssertionError in pixel_unshuffle()',
        'It takes only sides that are multiples of 2', 'crop the HR images to multiples of 4 pixels'),
        {**SMALL, **RRDB}, validation((24, 24), (24, 23))),
    BadInput('RRDBNet at scale 2 with an odd patch', 'datasets.train.gt_size', (
        'RRDBNet of network_g cannot run on LR patches of 3×11×11', 'write gt_size: 20'),
        {**RRDB, 'datasets.train.gt_size': 22}),
    BadInput('color forgotten in val', 'datasets.val.color', (
        'the images have 3 channels, and MSRResNet of network_g wants 1 channel', 'write color: y'),
        {**ONE_CHANNEL, 'datasets.train.color': 'y'}),
    BadInput('color forgotten in train and val', 'network_g', (
        'cannot run on patches of 3×8×8', 'write color: y in datasets.train: this network wants 1 channel'),
        ONE_CHANNEL),
    BadInput('color in val alone', 'datasets.val.color', (
        'the images have 1 channel, and EDSR of network_g wants 3 channels', 'remove color'),
        {'datasets.val.color': 'y'}),
    BadInput('an image smaller than its padding', 'datasets.val', (
        'SwinIR of network_g cannot run on 0.png of datasets.val (LR 3×3)', 'remove the image from the data set'),
        {**SMALL, **PLAIN, 'model_type': 'SwinIRModel', 'network_g': WINDOWS[0], 'val.metrics': REMOVE},
        validation((3, 3)), remedy=False),
    BadInput('windows 8 and 12', 'datasets.train.gt_size', (
        'gt_size / scale = 8 is not a multiple of 24, the least common multiple of the window sizes 8 of network_g and '
        '12 of teacher.network', 'write gt_size: 48'),
        {'model_type': 'SwinIRDistillModel', 'network_g': WINDOWS[0], 'teacher.network': WINDOWS[1],
         'train.distill_opt.taps': 3}, window_teacher),
    BadInput('windows 8 and 12, and a scale that does not divide', 'datasets.train.gt_size', (
        '33 is not a multiple of the scale, 2', 'write gt_size: 48'),
        {'model_type': 'SwinIRDistillModel', 'network_g': WINDOWS[0], 'teacher.network': WINDOWS[1],
         'train.distill_opt.taps': 3, 'datasets.train.gt_size': 33}, window_teacher),
    BadInput('checkpointing in SwinIR', 'network_g.use_checkpoint', (
        'does not work in BasicSR 1.4.2', 'this is a bug of BasicSR, not of your file', 'write use_checkpoint: false'),
        {'model_type': 'SwinIRDistillModel', 'network_g': {**STUDENTS['SwinIR'], 'use_checkpoint': True},
         'train.distill_opt.taps': 3}),
]
DATA = [
    BadInput('no HR images for PSNR', 'datasets.val.type', (
        'SingleImageDataset gives no HR image, and the metric psnr compares with one',
        'write type: PairedImageDataset, with dataroot_gt; or remove psnr from val.metrics'), {'datasets.val': SINGLE}),
    BadInput('no HR images for PSNR in a test', 'datasets.test.type', (
        'SingleImageDataset gives no HR image, and the metric psnr compares with one', ), {'datasets.test': SINGLE},
        command='test'),
    BadInput('single images without a folder', 'datasets.val.dataroot_lq', (
        'is missing', 'add dataroot_lq: the folder of the low-resolution images'),
        {'datasets.val': {**SINGLE, 'dataroot_lq': REMOVE}, 'datasets.val.dataroot_lq': REMOVE}, remedy=False),
    BadInput('a text file among single images', 'datasets.test', ('cannot be read as images: notes.txt', ),
             {'datasets.test': {**SINGLE, 'dataroot_lq': 'LR'}, 'val.metrics': REMOVE}, notes, 'test', remedy=False),
    BadInput('a list of single images that does not exist', 'datasets.test.meta_info_file', (
        'no.txt does not exist; looked for /', ),
        {'datasets.test': {**SINGLE, 'meta_info_file': 'no.txt'}, 'val.metrics': REMOVE}, command='test', remedy=False),
    BadInput('single images for training', 'datasets.train.type', (
        'SingleImageDataset gives no gt (it gives lq, lq_path), and DistillModel needs it', ),
        {'datasets.train.type': 'SingleImageDataset'}, remedy=False),
    BadInput('mean and std in a test set', 'datasets.test.mean', (
        'mean and std change the range of the images: the network would see values outside of [0, 1]',
        'remove mean, and remove std'),
        {'datasets.test.mean': [0.5] * 3, 'datasets.test.std': [0.5] * 3}, command='test'),
    BadInput('mean and std in the training set', 'datasets.train.mean', (
        'outside of [0, 1], which the teacher has not learned', 'remove mean, and remove std'),
        {'datasets.train.mean': [0.5] * 3, 'datasets.train.std': [0.5] * 3}),
    BadInput('mean without std', 'datasets.val.mean', ('mean changes the range', 'remove mean'),
             {'datasets.val.mean': [0, 0, 0]}),
    BadInput('two means', 'datasets.val.mean', ('mean and std change the range', ),
             {'datasets.val.mean': [0, 0], 'datasets.val.std': [1, 1]}),
    BadInput('two test sets of one name', 'datasets.test_2.name', (
        'the file has two test sets with the name val', 'give each set its own name'),
        {'datasets.test_2': {**SINGLE, 'name': 'val'}, 'val.metrics': REMOVE}, command='test'),
    BadInput('two val sets of one name', 'datasets.val_2.name', ('the file has two val sets with the name val', ),
             {'datasets.val_2': {**SINGLE, 'name': 'val'}, 'val.metrics': REMOVE}),
    BadInput('a slash behind an LMDB', 'datasets.train.dataroot_gt', (
        'HR.lmdb/ must end in .lmdb for BasicSR, without a slash', 'write dataroot_gt: HR.lmdb'),
        {'datasets.train.io_backend': {'type': 'lmdb'}, 'datasets.train.dataroot_gt': 'HR.lmdb/',
         'datasets.train.dataroot_lq': 'LRbicx2.lmdb'}, lmdbs),
    BadInput('a list in the home folder', 'datasets.val.meta_info_file', (
        'BasicSR does not replace ~ in this path', 'write meta_info_file: /'),
        {'datasets.val.meta_info_file': '~/list.txt'}, listing),
    BadInput('a name with a slash', 'name', ("'mine/run1' has a slash", 'write name: mine_run1'),
             {'name': 'mine/run1'}),
    BadInput('an LMDB of single images that is cut short', 'datasets.test.dataroot_lq', (
        'LRbicx2.lmdb is damaged: data.mdb is cut short', 'create the LMDB again'),
        {'datasets.test': {**SINGLE, 'dataroot_lq': 'LRbicx2.lmdb', 'io_backend': {'type': 'lmdb'}},
         'val.metrics': REMOVE}, cut_lmdb, 'test', remedy=False),
    BadInput('a test with a slash in its name', 'name', ('has a slash', ), {'name': 'mine/run1'}, command='test'),
    BadInput('prefetching on a GPU that is not there', 'datasets.train.prefetch_mode', (
        'cuda needs a GPU, and PyTorch finds no CUDA device here', 'write prefetch_mode: ~'),
        {'num_gpu': 'auto', 'datasets.train.prefetch_mode': 'cuda', 'datasets.train.pin_memory': True}),
]
MEASURES = [
    BadInput('SSIM of an image of 8×8', 'val.metrics.m', (
        'calculate_ssim gives nan for 0.png of datasets.val: its 8×8 pixels are too few', 'remove the image'),
        {**SMALL, **metric(type='calculate_ssim')}, validation((4, 4))),
    BadInput('SSIM of a small image and a wide border', 'val.metrics.m', (
        'its 16×16 pixels are too few with crop_border: 4', 'write crop_border: 2'),
        {**SMALL, **metric(type='calculate_ssim', crop_border=4)}, validation((8, 8))),
    BadInput('PSNR with a border over half the image', 'val.metrics.m', (
        'calculate_psnr gives nan', 'its 48×48 pixels are too few with crop_border: 24', 'write crop_border: 23'),
        metric(type='calculate_psnr', crop_border=24)),
    BadInput('PSNR with a border of a billion', 'val.metrics.m', ('calculate_psnr gives nan', 'write crop_border: 23'),
             metric(type='calculate_psnr', crop_border=10**9)),
    BadInput('PSNR in a test with a border over half the image', 'val.metrics.psnr', (
        'calculate_psnr gives nan', 'too few with crop_border: 50'),
        {'val.metrics.psnr.crop_border': 50}, command='test'),
    BadInput('NIQE of a small image', 'val.metrics.m', (
        'calculate_niqe needs 2 blocks of 96×96 pixels without the border: 4 of 4 images of datasets.val are too '
        'small, as 0.png, whose output has 48×48 pixels with crop_border: 2',
        'remove the images from the data set, or this metric'),
        metric(type='calculate_niqe', better='lower')),
    BadInput('NIQE without better', 'val.metrics.m.better', (
        'is missing, so BasicSR takes higher for better: it would call the worst value the best',
        'write better: lower'),
        {**SMALL, **metric(type='calculate_niqe')}, validation((100, 110))),
    BadInput('NIQE with the wrong better', 'val.metrics.m.better', ('is higher: it would call', 'write better: lower'),
             {**SMALL, **metric(type='calculate_niqe', better='higher')}, validation((100, 110))),
    BadInput('an order of axes that does not exist', 'val.metrics.m.input_order', (
        "must be HWC, not 'XYZ'", 'write input_order: HWC'), metric(type='calculate_psnr', input_order='XYZ')),
    BadInput('an order of axes that BasicSR does not use', 'val.metrics.m.input_order', ("must be HWC, not 'CHW'", ),
             metric(type='calculate_ssim', input_order='CHW')),
    BadInput('better: foo', 'val.metrics.m.better', ("must be higher or lower, not 'foo'", 'write better: higher'),
             metric(type='calculate_psnr', better='foo')),
    BadInput('a metric for tensors', 'val.metrics.m', (
        'calculate_psnr_pt fails (', 'or remove this metric'), metric(type='calculate_psnr_pt', test_y_channel=True)),
    BadInput('a test of random weights', 'path.pretrain_network_g', (
        'is missing: the test would measure random weights', 'models/net_g_latest.pth'),
        {'path.pretrain_network_g': None}, command='test', remedy=False),
]
TRAINING = [
    BadInput('GANLoss as pixel loss', 'train.pixel_opt.type', (
        'GANLoss cannot compare an output with an HR image', 'write type: L1Loss, MSELoss or CharbonnierLoss'),
        {'train.pixel_opt': {'type': 'GANLoss', 'gan_type': 'vanilla'}}),
    BadInput('a loss of one image as pixel loss', 'train.pixel_opt.type', (
        'WeightedTVLoss cannot compare an output with an HR image', ), {'train.pixel_opt': {'type': 'WeightedTVLoss'}}),
    BadInput('a distillation loss as pixel loss', 'train.pixel_opt.type', (
        'LogitsKDLoss cannot compare an output with an HR image', ), {'train.pixel_opt': {'type': 'LogitsKDLoss'}}),
    BadInput('a layer that VGG does not have', 'train.perceptual_opt.layer_weights.conv9_4', (
        "vgg19 has no layer 'conv9_4'", 'did you mean'),
        {'train.perceptual_opt': {**VGG, 'layer_weights': {'conv9_4': 1.0}}}, remedy=False),
    BadInput('a VGG that does not exist', 'train.perceptual_opt.vgg_type', (
        "there is no VGG 'vgg18'", 'did you mean'), {'train.perceptual_opt': {**VGG, 'vgg_type': 'vgg18'}},
        remedy=False),
    BadInput('a criterion that BasicSR misspells', 'train.perceptual_opt.criterion', (
        "'l2' does not work in BasicSR 1.4.2, only l1 and fro do", ),
        {'train.perceptual_opt': {**VGG, 'criterion': 'l2'}}, remedy=False),
    BadInput('ESRGANModel without a discriminator', 'network_d', (
        'is missing, and ESRGANModel trains a discriminator', 'write network_d: {type: UNetDiscriminatorSN'),
        {**PLAIN, 'model_type': 'ESRGANModel', 'train.optim_d': {'type': 'Adam', 'lr': 0.001},
         'train.gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla'}}),
    BadInput('ESRGANModel without anything of a GAN', 'network_d', (
        'is missing, and so are train.optim_d and train.gan_opt: ESRGANModel trains a discriminator', ),
        {**PLAIN, 'model_type': 'ESRGANModel'}),
    BadInput('capturable Adam on a CPU', 'train.optim_g.capturable', ('Adam refuses it: ', 'remove capturable'),
             {'train.optim_g.capturable': True}),
    BadInput('Adam uphill', 'train.optim_g.maximize', ('would make the loss larger', 'write maximize: false'),
             {'train.optim_g.maximize': True}),
    BadInput('a test without settings', 'val', ('is empty, and basicsr test needs it', 'write val: {save_img: true'),
             {'val': None}, command='test'),
    BadInput('three betas', 'train.optim_g.betas', ('must be two numbers, not [0.5, 0.5, 0.5]', ),
             {'train.optim_g.betas': [0.5, 0.5, 0.5]}),
    BadInput('a milestone between two iterations', 'train.scheduler.milestones', (
        'must be whole numbers, not [2.5]', 'write milestones: [3]'), {'train.scheduler.milestones': [2.5]}),
    BadInput('a test of nothing', 'datasets', ('holds no test set', ), {'datasets': {}}, command='test', remedy=False),
    BadInput('wandb that is not installed', 'logger.wandb', (
        'needs the package wandb, which is not installed', 'run: pip install wandb; or remove this block'),
        {'logger.wandb': {'project': 'p'}}),
]
CASES = [*SIZES, *DATA, *MEASURES, *TRAINING]
