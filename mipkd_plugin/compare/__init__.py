"""Comparisons: the same training with different losses and seeds; results, table and figure."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.compare.ablation import ablated_method
from mipkd_plugin.compare.block import read_comparison, results_folder
from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.equal_time import expected_length
from mipkd_plugin.compare.methods import place_of
from mipkd_plugin.compare.trials import Comparison, Trial

__all__ = ['CONTROL', 'EQUAL_TIME', 'Comparison', 'Trial', 'ablated_method', 'expected_length', 'place_of',
           'read_comparison', 'results_folder']
