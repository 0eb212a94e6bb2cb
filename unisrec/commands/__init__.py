"""
Verbs of the command line, one module each.

To add one, list it in `VERBS` of `cli.py` and in the table of README.md, and write a module of its name with

- `add_arguments(parser)`, which adds the options and sets `parser.epilog` to an example, and
- `run(args)`, which imports the heavy packages, does the work, and returns a [`Result`] of `_shared.py`, or an exit
  status if there is nothing to report.
"""
