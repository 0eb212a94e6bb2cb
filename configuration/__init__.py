"""`UniSRecConfig`, and what a checkpoint folder says about its own code. Imports nothing else of ours."""

from .configuration_unisrec import AUTO_MAP, UniSRecConfig, copy_code


__all__ = ["AUTO_MAP", "UniSRecConfig", "copy_code"]
