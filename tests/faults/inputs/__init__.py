"""The bad inputs, one module a kind."""

from faults.inputs import (
    aggregate,
    any_network,
    any_student,
    dckd,
    eco,
    hostile,
    images,
    not_finite,
    pictures,
    real_world,
    recognition,
    rehearsal,
    resume,
    resume_files,
    settings,
    several_teachers,
    start,
    weights,
    widths,
)

MODULES = (aggregate, images, settings, hostile, weights, rehearsal, resume, resume_files, not_finite, widths,
           any_network, any_student, pictures, recognition, dckd, eco, several_teachers,
           real_world, start)
CASES = [case for module in MODULES for case in module.CASES]
