"""The bad inputs, one module a kind."""

from faults.inputs import (
    any_network,
    any_student,
    dckd,
    hostile,
    images,
    not_finite,
    pictures,
    recognition,
    rehearsal,
    resume,
    resume_files,
    settings,
    weights,
    widths,
)

MODULES = (images, settings, hostile, weights, rehearsal, resume, resume_files, not_finite, widths, any_network,
           any_student, pictures, recognition, dckd)
CASES = [case for module in MODULES for case in module.CASES]
