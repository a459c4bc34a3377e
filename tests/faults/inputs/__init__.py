"""The bad inputs, one module a kind."""

from faults.inputs import hostile, images, rehearsal, settings, weights

CASES = [case for module in (images, settings, hostile, weights, rehearsal) for case in module.CASES]
