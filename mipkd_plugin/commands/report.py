"""``mipkd report``."""
from __future__ import annotations

import argparse

HELP = 'measure student and teacher'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""


def run(args: argparse.Namespace) -> int:
    """Run."""
    return 0
