"""Option files: reading, checking, and building what they describe. No other module knows our YAML keys."""

from mipkd_plugin.config.ablation import ablated_method
from mipkd_plugin.config.checks import (
    Report,
    build_for_taps,
    check_distillation,
    check_options,
    is_training,
    require_valid_distillation,
    run_checks,
)
from mipkd_plugin.config.comparison import Comparison, Trial, read_comparison, results_folder
from mipkd_plugin.config.components import distillation_entries
from mipkd_plugin.config.distillation import (
    build_losses,
    build_teacher,
    probe_shape,
    teacher_options,
    window_size,
)
from mipkd_plugin.config.keys import CONTROL
from mipkd_plugin.config.problems import OptionError, Options, Problem
from mipkd_plugin.config.sections import launcher_problem
from mipkd_plugin.config.trained import find_checkpoints, load_student, models_folder
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.config.yaml_io import load_options, read_options

__all__ = [
    'CONTROL', 'Comparison', 'OptionError', 'Options', 'Problem', 'Report', 'Trial', 'ablated_method', 'build_for_taps',
    'build_losses',
    'build_teacher', 'check_distillation', 'check_options', 'distillation_entries', 'find_checkpoints', 'is_training',
    'launcher_problem', 'load_options', 'load_student', 'models_folder', 'probe_shape', 'read_comparison',
    'read_options', 'require_valid_distillation', 'results_folder', 'run_checks', 'teacher_fingerprint',
    'teacher_options', 'window_size',
]
