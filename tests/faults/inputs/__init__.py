"""The bad inputs, one module a kind."""

from faults.inputs import hostile, images, not_finite, rehearsal, resume, settings, weights

CASES = [case for module in (images, settings, hostile, weights, rehearsal, resume, not_finite)
         for case in module.CASES]
