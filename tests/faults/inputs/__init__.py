"""The bad inputs, one module a kind."""

from faults.inputs import hostile, settings, weights

CASES = [case for module in (settings, hostile, weights) for case in module.CASES]
