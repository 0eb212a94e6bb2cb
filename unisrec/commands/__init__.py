"""Subcommands of the command line, one module each. `add_arguments(parser)` adds the options, `run(args)` runs the
subcommand and imports the heavy packages."""
