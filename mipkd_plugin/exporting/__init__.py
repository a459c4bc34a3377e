"""Write a trained student so that it runs elsewhere, and check that it gives the same images there."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.exporting.errors import ExportError
from mipkd_plugin.exporting.formats import FORMATS, Exported, Plan, check_plan, export, size_of
from mipkd_plugin.exporting.student import Student, student_of

__all__ = ['FORMATS', 'ExportError', 'Exported', 'Plan', 'Student', 'check_plan', 'export', 'size_of', 'student_of']
