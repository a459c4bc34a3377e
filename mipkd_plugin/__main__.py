"""``python -m mipkd_plugin train …`` is ``basicsr train …``; for torchrun."""

import sys

from mipkd_plugin.cli import basicsr_main

# Under a launcher the toolbox spawns its data loader's workers, and each has to repair the toolbox before it imports
# it. A spawned process runs this file again, and with it the import above, only if it knows it by path: a main
# module known by the name `package.__main__` is left out (multiprocessing.spawn._fixup_main_from_name).
__spec__ = None

if __name__ == '__main__':
    sys.exit(basicsr_main())
