from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mipkd_plugin' / 'version.py').read_text(encoding='utf-8'), version)

setup(
    name='mipkd-plugin',
    version=version['__version__'],
    description='Knowledge distillation for image super-resolution, as a plug-in for BasicSR',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mipkd_plugin', 'mipkd_plugin.*']),
    # basicsr 1.4.2 does not build on Python 3.13 and later
    python_requires='>=3.10,<3.13',
    install_requires=[
        'basicsr==1.4.2',
        'torch>=2.4',
        'torchvision>=0.19',
        'opencv-python',
        'lmdb',
        'pyyaml',
        # tensorboard comes with basicsr, as tb-nightly: a second copy would share its folder
        'tqdm',
        'matplotlib',
        'scikit-image',
        # basicsr imports distutils, which Python 3.12 took out and setuptools still supplies
        'setuptools',
    ],
    extras_require={'dev': ['pytest', 'pytest-timeout', 'ruff', 'mypy', 'types-PyYAML']},
    entry_points={
        'console_scripts': ['basicsr = mipkd_plugin.cli:basicsr_main', 'mipkd = mipkd_plugin.cli:mipkd_main'],
        'basicsr.plugins': ['mipkd = mipkd_plugin'],
    },
)
