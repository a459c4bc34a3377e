"""The bad inputs, one module a kind."""

from faults.inputs import hostile, images, rehearsal, resume, settings, weights

CASES = [case for module in (images, settings, hostile, weights, rehearsal, resume) for case in module.CASES]
