"""The bad inputs, one module a kind."""

from faults.inputs import images, settings

CASES = [case for module in (images, settings) for case in module.CASES]
