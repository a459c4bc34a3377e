"""The commands. Each is one module with ``HELP``, ``add_arguments(parser)`` and ``run(args)``.

Heavy imports belong into ``run``, because ``--help`` imports all modules.
"""
