"""``python -m mipkd_plugin train …`` is ``basicsr train …``; for torchrun."""

import sys

from mipkd_plugin.cli import basicsr_main

# Under a launcher BasicSR spawns the workers of its data loader, and each worker must repair BasicSR before importing
# it. A spawned process runs this file again, and the import above with it, only if it knows the file by path. It skips
# a main module that it knows as `package.__main__` (multiprocessing.spawn._fixup_main_from_name).
__spec__ = None

if __name__ == '__main__':
    sys.exit(basicsr_main())
elif __name__ == '__mp_main__':  # a worker process: what the option file imports may register its data set
    from mipkd_plugin.compat.workers import plugins_of_the_parent

    if plugins_of_the_parent():
        from mipkd_plugin.config.plugins import load_plugins

        load_plugins(named=plugins_of_the_parent())
