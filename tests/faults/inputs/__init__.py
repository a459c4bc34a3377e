"""The bad inputs, one module a kind."""

from faults.inputs import not_finite, settings

CASES = [case for module in (settings, not_finite) for case in module.CASES]
