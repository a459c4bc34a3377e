"""The bad inputs, one module a kind."""

from faults.inputs import resume, settings

CASES = [case for module in (settings, resume) for case in module.CASES]
