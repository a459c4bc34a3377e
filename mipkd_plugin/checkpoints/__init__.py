"""What a training saves and how it resumes: file names, states, random numbers. Knows no option of a loss."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)
