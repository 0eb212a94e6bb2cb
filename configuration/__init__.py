"""`UniSRecConfig`, and what a checkpoint folder says about its own code. Imports nothing else of ours."""

from .configuration_unisrec import UniSRecConfig


__all__ = ["UniSRecConfig"]
