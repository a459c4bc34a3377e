"""For tests of your own method: its contract in one line, and tiny networks to try it on."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.testing.contract import ContractError, check_loss
from mipkd_plugin.testing.promises import BrokenPromise
from mipkd_plugin.testing.tiny import ARCHITECTURES, STUDENTS, TEACHERS, batch, make_pair

__all__ = ['ARCHITECTURES', 'BrokenPromise', 'ContractError', 'STUDENTS', 'TEACHERS', 'batch', 'check_loss',
           'make_pair']
