"""The bad inputs, one module a kind."""

from faults.inputs import settings

CASES = [case for module in (settings, ) for case in module.CASES]
