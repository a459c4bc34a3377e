"""The commands. Each is one module with ``HELP``, ``add_arguments(parser)`` and ``run(args)``.

``run`` returns the exit code. It raises a :class:`~mipkd_plugin.utils.errors.MipkdError` for everything that the user
can fix; ``cli`` prints the message and exits with 2. Heavy imports belong into ``run``, as ``--help`` imports all
modules.
"""
