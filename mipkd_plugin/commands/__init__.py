"""The commands, one module each: ``HELP``, ``add_arguments(parser)`` and ``run(args)``.

A module imports nothing heavy before ``run``: ``--help`` imports all of them.
"""
