"""Makes the option files of real-world SR, for options/make.py: Real-ESRGAN x4plus -> SRVGGNetCompact."""

from pathlib import Path
from string import Template

FOLDER = Path(__file__).resolve().parent
_RANDOM = '''\
  pretrain_network_g: ~
  strict_load_g: true'''
_FROM_NET = '''\
  pretrain_network_g: experiments/MiPKD_RealESRNet_x4/models/net_g_latest.pth
  param_key_g: params_ema
  strict_load_g: true
  pretrain_network_d: ~
  strict_load_d: true'''
_NET = {
    'model': 'RealESRNetDistillModel', 'recipe': 'realesrnet_x4plus', 'rate': '2e-4', 'start': _RANDOM,
    'stage': 'The first of two stages, without GAN. The second: train_MiPKD_RealESRGAN_x4.yml',
    'iterations': '1,000,000', 'iterations_in_yaml': '1000000', 'discriminator': '', 'optimizer': '', 'adversary': '',
    'sharpening': 'gt_usm: true  # sharpen the HR images',
}
_GAN = {
    'model': 'RealESRGANDistillModel', 'recipe': 'realesrgan_x4plus', 'rate': '1e-4', 'start': _FROM_NET,
    'stage': 'The second of two stages, with GAN. It starts from the student of train_MiPKD_RealESRNet_x4.yml.',
    'iterations': '400,000', 'iterations_in_yaml': '400000',
    'sharpening': '''\
l1_gt_usm: true  # sharpen the HR images of the pixel loss, and of distillation losses that compare with them
percep_gt_usm: true
gan_gt_usm: false''',
    'discriminator': '''
network_d:
  type: UNetDiscriminatorSN
  num_in_ch: 3
  num_feat: 64
  skip_connection: true
''',
    'optimizer': '''\
  optim_d:
    type: Adam
    lr: !!float 1e-4
    weight_decay: 0
    betas: [0.9, 0.99]
''',
    'adversary': '''
  perceptual_opt:  # needs VGG-19: mipkd check says where to put its file
    type: PerceptualLoss
    layer_weights: {conv1_2: 0.1, conv2_2: 0.1, conv3_4: 1, conv4_4: 1, conv5_4: 1}
    vgg_type: vgg19
    use_input_norm: true
    perceptual_weight: 1.0
    style_weight: 0
    range_norm: false
    criterion: l1
  gan_opt:
    type: GANLoss
    gan_type: vanilla
    real_label_val: 1.0
    fake_label_val: 0.0
    loss_weight: 0.1
  net_d_iters: 1
  net_d_init_iters: 0
''',
}
_FILES = {
    'MiPKD_RealESRNet_x4': (_NET, {'channels': 64, 'convolutions': 16, 'size': '0.62M'}),
    'MiPKD_RealESRNetTiny_x4': (_NET, {'channels': 24, 'convolutions': 8, 'size': '0.05M',
                                        'stage': 'The first of two stages, without GAN; a student for a browser.'}),
    'MiPKD_RealESRGAN_x4': (_GAN, {'channels': 64, 'convolutions': 16, 'size': '0.62M'}),
}


def family() -> dict[str, bytes]:
    """Make all files.

    Returns:
        Names and contents.
    """
    template = Template((FOLDER / 'make_real_world.template').read_text(encoding='utf-8'))
    made = {}
    for name, (stage, student) in _FILES.items():
        text = template.substitute({**stage, **student, 'name': name})
        made[f'train_{name}.yml'] = text.encode()
    return made
