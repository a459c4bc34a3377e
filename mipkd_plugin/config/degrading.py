"""What ``mipkd degrade`` needs of an option file: the degradation alone, whatever else the file lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mipkd_plugin.config.check import check_options
from mipkd_plugin.config.data_set_tables import HR_IMAGES, gives_kernels
from mipkd_plugin.config.degradation_keys import DEGRADATION
from mipkd_plugin.config.keys import DATASET
from mipkd_plugin.config.problems import OptionError, Problem

_DATA = 'datasets.train'
_NOT_NEEDED = {*DATASET, 'dataroot_gt', 'io_backend', 'meta_info', 'use_hflip', 'use_rot', 'gt_size'}


def require_degradation(opt: Mapping[str, Any]) -> None:
    """Check the part of the options that says how to degrade images.

    Args:
        opt: The options.

    Raises:
        OptionError: They do not say it, or something in it is wrong; the message lists all problems.
    """
    if not gives_kernels(opt):
        raise OptionError([Problem(f'{_DATA}.type', 'is no data set for real-world SR, so the file does not say how to '
                                   'degrade images', 'name a file of such a training: see options/train_MiPKD_Real*.yml'
                                   )], opt)
    own = {'scale', 'model_type', *DEGRADATION} - {'gt_size'}
    own |= {f'{_DATA}.{key}' for key in {*HR_IMAGES} - _NOT_NEEDED}
    problems = check_options(opt, is_train=True, files=False, probe='none').problems
    found = [problem for problem in problems if own & {problem.where.partition('[')[0], *problem.fix}]
    if found:
        raise OptionError(found, opt)
