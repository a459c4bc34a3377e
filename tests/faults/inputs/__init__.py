"""The bad inputs, one module a kind."""

from faults.inputs import hostile, rehearsal, settings, weights

CASES = [case for module in (settings, hostile, weights, rehearsal) for case in module.CASES]
