"""From a teacher's file to a training run: which student, which data, which settings, as one option file."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)
