"""Comparisons: the same training with different losses and seeds; results, table and figure."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.compare.ablation import ablated_method
from mipkd_plugin.compare.block import Comparison, Trial, read_comparison, results_folder
from mipkd_plugin.compare.checks import CONTROL

__all__ = ['CONTROL', 'Comparison', 'Trial', 'ablated_method', 'read_comparison', 'results_folder']
