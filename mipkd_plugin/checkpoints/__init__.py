"""Checkpoints: file names, distillation state, random numbers, and how a run resumes. Knows no loss options."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)
