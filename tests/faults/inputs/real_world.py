"""Trainings on images that the model degrades, as of Real-ESRGAN: keys, numbers, images, data sets, discriminators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from real_world import DEGRADATION, DISCRIMINATOR, GAN_LOSS, KERNELS, SHARPENED

from faults.harness import BadInput
from faults.inputs.images import VAL, cut_to_half, rewrite, spoiled
from faults.inputs.rehearsal import PLAIN, lmdbs
from mipkd_plugin.config.remedies import REMOVE

TRAIN = 'datasets.train'
SET: dict[str, Any] = {
    f'{TRAIN}.type': 'RealESRGANCropDataset', f'{TRAIN}.crop_size': 48, f'{TRAIN}.meta_info': 'list.txt',
    f'{TRAIN}.dataroot_gt': 'HR', f'{TRAIN}.dataroot_lq': REMOVE, f'{TRAIN}.gt_size': REMOVE,
    **{f'{TRAIN}.{key}': value for key, value in KERNELS.items()}}
NET: dict[str, Any] = {'model_type': 'RealESRNetDistillModel', **SHARPENED['RealESRNet'], **DEGRADATION, **SET}
ADVERSARY = {'network_d': DISCRIMINATOR, 'train.optim_d': {'type': 'Adam', 'lr': 0.0001}, 'train.gan_opt': GAN_LOSS}
GAN = {**NET, 'gt_usm': REMOVE, 'gt_size': 32, 'model_type': 'RealESRGANDistillModel', **SHARPENED['RealESRGAN'],
       **ADVERSARY}
GAN_ALONE = {**PLAIN, 'model_type': 'RealESRGANModel'}
ESRGAN = {**PLAIN, 'model_type': 'ESRGANModel', **ADVERSARY}
NOT_SPOILED = dict.fromkeys([*DEGRADATION, 'gt_usm'], REMOVE)
PAIRS = {'model_type': 'RealESRNetDistillModel'}
REAL_PAIRS = {**PAIRS, 'high_order_degradation': False, f'{TRAIN}.type': 'RealESRGANPairedDataset',
              f'{TRAIN}.dataroot_gt': 'HR', f'{TRAIN}.dataroot_lq': 'LRbicx2'}
LIST = "find -L HR -maxdepth 1 -type f ! -name '*.txt' -printf '%P\\n' | sort > "
GRAY = {'type': 'SRVGGNetCompact', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 6, 'num_conv': 4, 'upscale': 2}
NAMES = [f'{number}.png' for number in range(4)]


def listed(*names: str) -> Callable[[Path], None]:
    """Write ``list.txt``."""
    return lambda folder: (folder / 'list.txt').write_text(''.join(f'{name}\n' for name in names)) and None


ALL_LISTED = listed(*NAMES)


def also(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """Write ``list.txt`` of all images, and spoil something."""
    def work(folder: Path) -> None:
        ALL_LISTED(folder)
        spoil(folder)

    return work


def of_side(side: int, *numbers: int) -> Callable[[Path], object]:
    """Give some of the images another size."""
    return lambda folder: [cv2.imwrite(str(folder / f'HR/{number}.png'), np.zeros((side, side + 8, 3), np.uint8))
                           for number in numbers]


def bad(name: str, where: str, says: tuple[str, ...], base: dict[str, Any] = NET, spoil: Any = ALL_LISTED,
        remedy: bool = True, **entries: Any) -> BadInput:
    """A bad input; a double underscore in the name of an entry stands for a dot."""
    own = {key.replace('__', '.'): value for key, value in entries.items()}
    return BadInput(f'{name} (real world)', where, says, {**base, **own}, spoil, remedy=remedy)


def data(**entries: Any) -> dict[str, Any]:
    """Entries of the training set."""
    return {f'datasets__train__{key}': value for key, value in entries.items()}


LMDB = data(dataroot_gt='HR.lmdb', io_backend={'type': 'lmdb'})
KEYS = [
    bad('a key that is misspelled', 'resize_rang', ("did you mean 'resize_range'?", ), resize_range=REMOVE,
        resize_rang=[0.5, 1.5]),
    bad('a key of another model', 'l1_gt_usm', ('unknown key: nothing reads it', ), l1_gt_usm=True),
    bad('a key that is missing', 'jpeg_range2', ('is missing', 'write jpeg_range2: [30, 95]'), jpeg_range2=REMOVE),
    bad('no gt_size', 'gt_size', ('is missing', 'write gt_size: 48'), gt_size=REMOVE),
    bad('a gt_size of the data set, which is not read', 'gt_size', (
        'is missing at the top level, and the 32 of datasets.train is not read: RealESRNetDistillModel cuts the ',
        'write gt_size: 32'), gt_size=REMOVE, **data(gt_size=32)),
    bad('a key of a kernel that is missing', f'{TRAIN}.sinc_prob2', ('is missing', ), **data(sinc_prob2=REMOVE)),
    bad('a flag that is missing', 'percep_gt_usm', ('is missing', 'write percep_gt_usm: true'), GAN,
        percep_gt_usm=REMOVE),
    bad('a range of one number', 'noise_range', ('must be two numbers, as [1, 30], not 5', ), noise_range=5),
    bad('a probability above 1', 'gray_noise_prob', ('must be a number from 0 to 1, not 1.5', ), gray_noise_prob=1.5),
    bad('a probability below 0', f'{TRAIN}.final_sinc_prob', ('must be a number from 0 to 1, not -0.1', ),
        **data(final_sinc_prob=-0.1)),
    bad('two probabilities of three', 'resize_prob2', ('must be three numbers from 0 to 1, which sum to 1', ),
        resize_prob2=[0.5, 0.5]),
    bad('a kernel of an even size', f'{TRAIN}.blur_kernel_size', ('must be an odd whole number above 0, not 20', ),
        **data(blur_kernel_size=20)),
    bad('a queue of a fraction', 'queue_size', ('must be a whole number, 1 or more, not 8.5', ), queue_size=8.5),
    bad('a color that nothing reads', f'{TRAIN}.color', ('unknown key: nothing reads it', ), **data(color='y')),
    bad('a discriminator that nothing trains', 'network_d', ('unknown key: nothing reads it', ),
        network_d=DISCRIMINATOR, remedy=False),
    bad('crop_size in a class without it', f'{TRAIN}.crop_size', ('unknown key: nothing reads it', ),
        spoil=also(of_side(400, 0, 1, 2, 3)), val=REMOVE, datasets__val=REMOVE, **data(type='RealESRGANDataset')),
]
NUMBERS = [
    bad('probabilities that sum to less than 1', 'resize_prob', (
        '[0.2, 0.6, 0.1] sum to 0.9, and probabilities sum to 1', 'write resize_prob: [0.2222, 0.6667, 0.1111]'),
        resize_prob=[0.2, 0.6, 0.1]),
    bad('probabilities of nothing', 'resize_prob2', ('sum to 0', ), resize_prob2=[0, 0, 0]),
    bad('shares of kernels that sum to 2', f'{TRAIN}.kernel_prob', ('sum to 2', 'write kernel_prob: [0.5, 0.5]'),
        **data(kernel_list=['iso', 'aniso'], kernel_prob=[1, 1])),
    bad('fewer shares than kernels', f'{TRAIN}.kernel_prob2', (
        'has 5 numbers, and kernel_list2 has 6 kernels: each kernel needs one', ),
        **data(kernel_prob2=[0.5, 0.25, 0.12, 0.1, 0.03])),
    bad('a kernel that does not exist', f'{TRAIN}.kernel_list[1]', (
        "there is no kernel 'anios'", "did you mean 'aniso'"), **data(
            kernel_list=['iso', 'anios'], kernel_prob=[0.5, 0.5])),
    bad('a range that is reversed', 'jpeg_range', (
        '[95, 30] is reversed: the smaller number comes first', 'write jpeg_range: [30, 95]'), jpeg_range=[95, 30]),
    bad('a quality above 100', 'jpeg_range2', ('[30, 101] must lie above 0, up to 100', ), jpeg_range2=[30, 101]),
    bad('a quality of 0', 'jpeg_range', ('[0, 95] must lie above 0', ), jpeg_range=[0, 95]),
    bad('a quality of 100 alone', 'jpeg_range', ('and not all of it 100', ), jpeg_range=[100, 100]),
    bad('noise below 0', 'noise_range', ('[-1, 30] must lie 0 or more', 'write noise_range: [1, 30]'),
        noise_range=[-1, 30]),
    bad('no Poisson noise', 'poisson_scale_range', ('[0, 3] must lie above 0', ), poisson_scale_range=[0, 3]),
    bad('a size of 0', 'resize_range', ('[0, 1.5] must lie above 0, up to 16', ), resize_range=[0, 1.5],
        remedy=False),
    bad('sizes above 1 alone', 'resize_range', (
        '[1.2, 1.5] leaves out 1: BasicSR draws from the smaller number to 1, and from 1 to the larger one',
        'write resize_range: [1, 1.5]'), resize_range=[1.2, 1.5]),
    bad('a blur of one width', f'{TRAIN}.blur_sigma', ('[2, 2] holds one number alone', ), **data(blur_sigma=[2, 2])),
    bad('a blur of no width', f'{TRAIN}.blur_sigma2', ('[0, 2] must lie above 0', ), **data(blur_sigma2=[0, 2])),
    bad('exponents above 1 alone', f'{TRAIN}.betag_range', ('[2, 4] leaves out 1', ), **data(betag_range=[2, 4])),
    bad('a queue of no whole batches', 'queue_size', (
        '7 is not a multiple of the 2 images of a batch', 'write queue_size: 8'), queue_size=7),
    bad('the queue by default', 'queue_size', (
        'is not written, and by default it is 180: not a multiple of the 7 images of a batch', ), queue_size=REMOVE,
        **data(batch_size_per_gpu=7)),
    bad('a queue that fills the memory', 'queue_size', ('pairs of images take', 'of memory are free'),
        queue_size=2 * 10**12),
    bad('a patch larger than its crop', 'gt_size', (
        '64 is larger than the crop that it is cut from: crop_size is 48', 'write gt_size: 48'), gt_size=64),
    bad('a patch that is no multiple of the scale', 'gt_size', ('15 is not a multiple of the scale, 2', ), gt_size=15),
    bad('a crop that is no multiple of the scale', f'{TRAIN}.crop_size', (
        'crop_size is 47: no multiple of the scale, 2', 'write crop_size: 46'), **data(crop_size=47)),
    bad('a crop of 400 at scale 3', f'{TRAIN}.type', (
        'RealESRGANDataset cuts crops of 400×400 pixels: no multiple of the scale, 3',
        'write type: RealESRGANCropDataset, and write crop_size: 399'),
        {**NET, **PLAIN, 'model_type': 'RealESRNetModel'}, scale=3, network_g__upscale=3, gt_size=24, val=REMOVE,
        datasets__val=REMOVE, spoil=also(of_side(400, 0, 1, 2, 3)), **data(type='RealESRGANDataset', crop_size=REMOVE)),
    bad('a crop that vanishes', f'{TRAIN}.crop_size', (
        'too small: BasicSR blurs the LR crop of 8×8 pixels, and needs 11', 'write crop_size: 22'),
        resize_range=[1, 1.5], gt_usm=False, **data(crop_size=16)),
    bad('a crop that is too small to be sharpened', f'{TRAIN}.crop_size', (
        'too small: BasicSR sharpens the crop, and needs 26 pixels', 'write crop_size: 26'), resize_range=[1, 1.5],
        **data(crop_size=24)),
    bad('a patch that is too small to be sharpened', 'gt_size', (
        '16 is too small: RealESRGANModel sharpens the HR patches, and needs 26 pixels a side', 'write gt_size: 32'),
        GAN, gt_size=16),
    bad('a patch of pairs that is too small to be sharpened', f'{TRAIN}.gt_size', ('16 is too small', ),
        {**ADVERSARY, **SHARPENED['RealESRGAN'], **REAL_PAIRS, 'model_type': 'RealESRGANDistillModel'}),
    bad('a crop that is shrunk too far', 'resize_range', (
        'shrinks a crop of 48×48 pixels to 4: BasicSR blurs it again, and needs 11', 'write resize_range: [0.23, 1.5]'),
        resize_range=[0.1, 1.5]),
    bad('an LR crop that is shrunk to nothing', 'resize_range2', ('to 0: nothing is left of it', ),
        resize_range2=[0.01, 1.2]),
    bad('images smaller than the crop of 400', TRAIN, (
        '4 of 4 images are smaller than the crop of 400×400 pixels: 0.png, 1.png',
        'write type: RealESRGANCropDataset, and write crop_size: 48'), **data(
            type='RealESRGANDataset', crop_size=REMOVE)),
    bad('an image smaller than the crop', f'{TRAIN}.crop_size', (
        '1 of 4 images is smaller than the crop of 48×48 pixels: 2.png',
        'write crop_size: 40, or leave these images out: mipkd prepare --gt-only does it with --min-side 48'),
        spoil=also(of_side(40, 2)), val=REMOVE, datasets__val=REMOVE),
    bad('an image smaller than a patch', f'{TRAIN}.crop_size', ('1 of 4 images is smaller', 'leave these images out: '),
        GAN, spoil=also(of_side(30, 2)), remedy=False, val=REMOVE, datasets__val=REMOVE),
    bad('images smaller than a patch of 64', f'{TRAIN}.crop_size', (
        '4 of 4 images are smaller than the crop of 64×64 pixels', 'train on larger images, or on smaller patches'),
        gt_size=64, remedy=False, **data(crop_size=64)),
    bad('a crop that fills the memory', f'{TRAIN}.crop_size', ('must be a whole number from 1 to 400', ),
        spoil=also(of_side(400, 0, 1, 2, 3)), val=REMOVE, datasets__val=REMOVE, **data(crop_size=10**9)),
]
FEEDING = [
    bad('a model that makes no LR images', f'{TRAIN}.type', (
        'gives HR images and blur kernels, but no LR images: DistillModel makes none itself',
        'write model_type: RealESRNetDistillModel, which makes them; or use PairedImageDataset'),
        {**NET, 'model_type': 'DistillModel'}),
    bad('a plain model that makes no LR images', f'{TRAIN}.type', ('write model_type: RealESRNetModel, which', ),
        {**NET, **PLAIN}),
    bad('a GAN that makes no LR images', f'{TRAIN}.type', ('write model_type: RealESRGANDistillModel, which', ),
        {**GAN, 'model_type': 'ESRGANDistillModel'}),
    bad('pairs for a model that makes LR images', f'{TRAIN}.type', (
        'PairedImageDataset gives HR and LR images, but no blur kernels: RealESRNetDistillModel makes the LR images '
        'itself, because high_order_degradation is on by default', 'write high_order_degradation: false'), PAIRS),
    bad('pairs for a GAN that makes LR images', f'{TRAIN}.type', ('because high_order_degradation is on\n', ),
        {**GAN, **NOT_SPOILED, **GAN_ALONE,
         **dict.fromkeys(SET, REMOVE), f'{TRAIN}.type': 'PairedImageDataset', f'{TRAIN}.gt_size': 32,
         f'{TRAIN}.dataroot_gt': 'HR', f'{TRAIN}.dataroot_lq': 'LRbicx2'}, high_order_degradation=True),
    bad('kernels for a model that wants pairs', 'high_order_degradation', (
        'is false, and so RealESRNetDistillModel wants LR images; RealESRGANCropDataset gives HR images and blur',
        'write high_order_degradation: true'), high_order_degradation=False),
    bad('a student for one channel', 'network_g', (
        'write num_in_ch: 3, and write num_out_ch: 3: it wants 1 channel, and RealESRGANCropDataset gives 3', ),
        network_g=GRAY, train__distill_opt={'type': 'LogitsKDLoss'}),
    bad('kernels for validation', 'datasets.val.type', (
        'RealESRGANDataset is for training: it gives no LR images', 'write type: PairedImageDataset'),
        datasets__val__type='RealESRGANDataset'),
]
IMAGES = [
    bad('no list of images', f'{TRAIN}.meta_info', (
        'is missing, and RealESRGANCropDataset reads the images that it lists', LIST + 'meta_info.txt'),
        remedy=False, **data(meta_info=REMOVE)),
    bad('a list that does not exist', f'{TRAIN}.meta_info', ('does not exist; looked for ', LIST + 'list.txt'),
        spoil=lambda folder: None, remedy=False),
    bad('a list of nothing', f'{TRAIN}.meta_info', ('list.txt is empty', f'list the images: {LIST}list.txt'),
        spoil=listed(), remedy=False),
    bad('a list with a blank line', f'{TRAIN}.meta_info', ('has no name in line 2', ), remedy=False,
        spoil=listed('0.png', '', '1.png')),
    bad('a list of images that are gone', f'{TRAIN}.meta_info', (
        'lists 2 of 3 images that', 'HR does not hold: 8.png, sub/9.png'), spoil=listed('0.png', '8.png', 'sub/9.png'),
        remedy=False),
    bad('a list in the home folder', f'{TRAIN}.meta_info', ('BasicSR does not replace ~ in this path', ),
        spoil=lambda folder: ALL_LISTED(folder) or (folder / 'list.txt').rename(folder / 'home/list.txt'),
        **data(meta_info='~/list.txt', dataroot_gt='HR')),
    bad('an image that is cut short', TRAIN, ('1 of 4 files cannot be read as images: ', 'HR/2.png is cut short'),
        {**NET, **VAL}, also(spoiled(rewrite('HR/2.png', lambda content: content[:len(content) // 2]))), remedy=False),
    bad('a folder that does not exist', f'{TRAIN}.dataroot_gt', (
        'nowhere does not exist; looked for', 'mipkd prepare --hr DIR --gt-only --out'), remedy=False,
        **data(dataroot_gt='nowhere')),
    bad('an LMDB that is read as a folder', f'{TRAIN}.dataroot_gt', ('is an LMDB, but io_backend is disk', ),
        spoil=also(lmdbs), **data(dataroot_gt='HR.lmdb')),
    bad('an LMDB that is cut short', f'{TRAIN}.dataroot_gt', ('HR.lmdb is damaged: data.mdb is cut short', ),
        spoil=lambda folder: lmdbs(folder) or cut_to_half(folder), remedy=False,
        **data(dataroot_gt='HR.lmdb', io_backend={'type': 'lmdb'}, meta_info=REMOVE)),
    bad('an LMDB whose list is wrong', f'{TRAIN}.dataroot_gt', ('HR.lmdb lists 3 images but holds 4', ),
        spoil=lambda folder: lmdbs(folder) or rewrite('HR.lmdb/meta_info.txt', lambda content: b''.join(
            content.splitlines(keepends=True)[:3]))(folder), remedy=False,
        **data(dataroot_gt='HR.lmdb', io_backend={'type': 'lmdb'}, meta_info=REMOVE)),
    bad('a list of some images of an LMDB', f'{TRAIN}.meta_info', (
        'list.txt is not read with an LMDB: the training takes all images that meta_info.txt of HR.lmdb lists',
        'remove meta_info'), spoil=lambda folder: lmdbs(folder) or listed('0.png', '1.png')(folder), **LMDB),
    bad('a list of images that an LMDB does not hold', f'{TRAIN}.meta_info', ('is not read with an LMDB', ),
        spoil=lambda folder: lmdbs(folder) or listed(*NAMES, '9.png')(folder), **LMDB),
    bad('a list beside an LMDB that does not exist', f'{TRAIN}.meta_info', ('is not read with an LMDB', ),
        spoil=lmdbs, **LMDB),
    bad('an LMDB that does not exist', f'{TRAIN}.dataroot_gt', (
        'mipkd prepare --hr DIR --gt-only --out . --lmdb --crop 400 --step 200 --min-side 48', ), remedy=False, **LMDB),
    bad('photographs for validation that do not exist', 'datasets.val.dataroot_lq', (
        'create it: mipkd degrade -opt ', 'options.yml --hr DIR --out degraded; then write dataroot_gt: degraded/HR, '
        'and write dataroot_lq: degraded/LQ'), remedy=False, datasets__val__dataroot_lq='LQ'),
    bad('a list of pairs with one name', f'{TRAIN}.meta_info', (
        'list.txt does not hold two names in line 1', 'as HR/1.png, LR/1.png'), REAL_PAIRS, remedy=False,
        spoil=listed('0.png'), **data(meta_info='list.txt')),
    bad('a list of pairs that are gone', f'{TRAIN}.meta_info', (
        'lists 1 of 2 images that', 'LRbicx2 does not hold: 9.png'), REAL_PAIRS,
        spoil=listed('0.png, 0.png', '1.png, 9.png'), remedy=False, **data(meta_info='list.txt')),
    bad('pairs smaller than a patch', f'{TRAIN}.gt_size', ('64 is larger than 4 of 4 HR images', ), REAL_PAIRS,
        **data(gt_size=64)),
]
GANS = [
    bad('meta steps without a reconstruction loss', 'train.distill_opt',
        ('KRNetLoss takes meta steps on the reconstruction loss', 'pixel_opt'), GAN, train__pixel_opt=REMOVE,
        train__distill_opt={'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 4}),
    bad('a cache of images that are degraded anew', 'teacher.cache', ('images that stay the same', 'remove cache'),
        teacher__cache='memory'),
    bad('ECO that blends degraded images with clean ones', 'train.eco.mode', (
        'full blends the LR images with bicubic ones', 'RealESRGANDistillModel degrades its own',
        'write mode: hr_only'), GAN, train__eco={'end_ratio': 0.5}),
    bad('distillation that ends before the generator starts', 'train.distill', (
        'distills in iterations 1 to 2; and network_g trains in iterations from 4 on', 'no iteration does both',
        'write until: 1'), GAN, train__net_d_init_iters=3, train__total_iter=4, train__distill={'until': 0.5}),
    bad('distillation between the turns of the generator', 'train.distill', (
        'distills in iterations 1 to 5, one in 2; and network_g trains in all iterations, one in 3', 'write every: 1'),
        GAN, train__net_d_iters=3, train__total_iter=5, train__distill={'every': 2}),
    bad('distillation that never meets the generator', 'train.distill', ('one in 3', 'remove distill'), GAN,
        train__net_d_iters=3, train__net_d_init_iters=3, train__total_iter=8,
        train__distill={'every': 4, 'until': 0.6}),
    bad('a term between the turns of the generator', 'train.distill_opt.block_every', (
        'is 3, and only the first 4 iterations distill; network_g trains in all iterations, one in 2',
        'write a smaller number, as block_every: 1'), GAN, train__net_d_iters=2,
        train__distill_opt={'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4, 'block_every': 3}),
    bad('no discriminator for Real-ESRGAN', 'network_d', (
        'is missing, and RealESRGANDistillModel trains a discriminator',
        'write network_d: {type: UNetDiscriminatorSN, num_in_ch: 3}; or write model_type: RealESRNetDistillModel'), GAN,
        network_d=REMOVE),
    bad('VGGStyleDiscriminator for other patches', 'network_d.input_size', (
        'is 128, and the HR patches of the training have datasets.train.gt_size: 16',
        'write network_d: {type: UNetDiscriminatorSN'), ESRGAN,
        network_d={'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4}),
    bad('a patch that the discriminator cannot halve', 'network_d', (
        'UNetDiscriminatorSN cannot run on HR patches of 3×36×36', 'write gt_size: 32'), GAN, gt_size=36),
    bad('a loss that is no GAN loss', 'train.gan_opt', (
        'L1Loss cannot take what UNetDiscriminatorSN returns', ), GAN, train__gan_opt={'type': 'L1Loss'}),
    bad('a GAN loss that does not exist', 'train.gan_opt.gan_type', (
        "there is no GAN loss 'vanila'", "did you mean 'vanilla'"), GAN,
        train__gan_opt={'type': 'GANLoss', 'gan_type': 'vanila'}),
    bad('a GAN loss like no other', 'train.gan_opt.gan_type', ("there is no GAN loss 'x'", ), GAN,
        train__gan_opt={'type': 'GANLoss', 'gan_type': 'x'}),
    bad('an argument of the GAN loss that is misspelled', 'train.gan_opt.loss_wieght', ("did you mean 'loss_weight'", ),
        GAN, train__gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_wieght': 1}),
    bad('a key of a GAN that is misspelled', 'train.net_d_iter', ("did you mean 'net_d_iters'", ), GAN,
        train__net_d_iter=1),
    bad('the discriminator alone', 'train.net_d_init_iters', (
        'is 4, and the training has 4 iterations: network_g would never learn', 'write net_d_init_iters: 0'), GAN,
        train__net_d_init_iters=4),
    bad('turns that never come', 'train.net_d_iters', ('is 5, and the training has 4 iterations', ), GAN,
        train__net_d_iters=5),
    bad('no turns', 'train.net_d_iters', ('must be a whole number, 1 or more, not 0', ), GAN, train__net_d_iters=0),
    bad('LDL without averaged weights', 'train.ema_decay', ('must be above 0 for ldl_opt', ), GAN, train__ema_decay=0,
        train__ldl_opt={'type': 'L1Loss'}),
    bad('LDL in another GAN', 'train.ldl_opt', ('ESRGANModel makes this loss and never uses it', ), ESRGAN,
        train__ldl_opt={'type': 'L1Loss'}),
    bad('an argument of the discriminator that is misspelled', 'network_d.num_feet', ("did you mean 'num_feat'", ), GAN,
        network_d={'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feet': 4}),
]
CASES = [*KEYS, *NUMBERS, *FEEDING, *IMAGES, *GANS]
