"""``python -m mipkd_plugin train …`` is ``basicsr train …``; for torchrun."""

import sys

from mipkd_plugin.cli import basicsr_main

if __name__ == '__main__':
    sys.exit(basicsr_main())
