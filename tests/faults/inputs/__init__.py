"""The bad inputs, one module a kind."""

from faults.inputs import hostile, images, not_finite, rehearsal, resume, resume_files, settings, weights

CASES = [case for module in (images, settings, hostile, weights, rehearsal, resume, resume_files, not_finite)
         for case in module.CASES]
