"""Read and check the option file; build teacher and losses from it. Only this package and compare know its keys."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.config.aggregation import load_members
from mipkd_plugin.config.built import Built
from mipkd_plugin.config.check import Report, build_distillation, build_for_taps, check_options, is_training
from mipkd_plugin.config.checkpoints import Checkpoint, save_plan
from mipkd_plugin.config.degrading import require_degradation
from mipkd_plugin.config.devices import launcher_problem
from mipkd_plugin.config.distillation import Distillation, prepared
from mipkd_plugin.config.eco import EcoSchedule, read_eco
from mipkd_plugin.config.generator import generator_period, iterations_alone, trains_generator
from mipkd_plugin.config.patches import probe_shape, window_size
from mipkd_plugin.config.plugins import absolute_imports, load_plugins
from mipkd_plugin.config.problems import OptionError, Options, Problem, require_clean
from mipkd_plugin.config.rehearsal import rehearsed_once
from mipkd_plugin.config.saved_run import load_run, models_folder
from mipkd_plugin.config.schedule import DistillSchedule, read_schedule
from mipkd_plugin.config.start import start_in_words, starts_from_slice
from mipkd_plugin.config.teacher_cache import make_caches
from mipkd_plugin.config.teacher_file import fill_teacher, forget_weights, recognition_in_words
from mipkd_plugin.config.teachers import distillation_entries, teachers_of
from mipkd_plugin.config.weight_options import weight_option
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.config.yaml_io import read_options

__all__ = ['Built', 'Checkpoint', 'DistillSchedule', 'Distillation', 'EcoSchedule', 'OptionError', 'Options', 'Problem',
           'Report', 'absolute_imports', 'build_distillation', 'build_for_taps', 'check_options',
           'distillation_entries', 'fill_teacher', 'forget_weights', 'generator_period', 'is_training',
           'iterations_alone', 'launcher_problem', 'load_members', 'load_plugins', 'load_run', 'make_caches',
           'models_folder', 'prepared', 'probe_shape', 'read_eco', 'read_options', 'read_schedule',
           'recognition_in_words', 'rehearsed_once', 'require_clean', 'require_degradation', 'save_plan',
           'start_in_words', 'starts_from_slice', 'teacher_fingerprint', 'teachers_of', 'trains_generator',
           'weight_option', 'window_size']
