"""Pages to look at: what several networks make of the same images, in one HTML file that needs nothing else."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)
