"""The bad inputs, one module a kind."""

from faults.inputs import rehearsal, settings

CASES = [case for module in (settings, rehearsal) for case in module.CASES]
