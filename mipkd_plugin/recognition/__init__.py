"""What network a weights file holds: its architecture, sizes, scale factor and key. Knows no option file."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.recognition.errors import RecognitionError
from mipkd_plugin.recognition.recognize import recognize
from mipkd_plugin.recognition.recognized import Recognized

__all__ = ['RecognitionError', 'Recognized', 'recognize']
