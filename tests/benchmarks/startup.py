"""Start-up times of the commands, in seconds: the best of some starts, each a process of its own.

    python tests/benchmarks/startup.py

``--help`` must answer in under 0.5 s on an idle machine; the other rows import PyTorch and BasicSR.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PYTHON = [sys.executable, '-W', 'ignore', '-c']
STARTS: dict[str, list[str]] = {
    'mipkd --help': [str(BIN / 'mipkd'), '--help'],
    'basicsr --help': [str(BIN / 'basicsr'), '--help'],
    'basicsr train --help': [str(BIN / 'basicsr'), 'train', '--help'],
    'mipkd --version': [str(BIN / 'mipkd'), '--version'],
    'import mipkd_plugin': [*PYTHON, 'import mipkd_plugin'],
    'import torch': [*PYTHON, 'import torch'],
    'import mipkd_plugin, basicsr': [*PYTHON, 'import mipkd_plugin, basicsr'],
}


def best_of(command: list[str], starts: int) -> float:
    """Seconds of the quickest of some starts."""
    times = []
    for _ in range(starts):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--starts', type=int, default=5)
    args = parser.parse_args()
    for name, command in STARTS.items():
        sys.stdout.write(f'{name:32} {best_of(command, args.starts):6.2f} s\n')


if __name__ == '__main__':
    main()
