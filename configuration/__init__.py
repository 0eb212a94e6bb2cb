"""`UniSRecConfig`, and the code that is copied into checkpoint folders. Imports no other module of this package."""

from .configuration_unisrec import AUTO_MAP, UniSRecConfig, copy_code


__all__ = ["AUTO_MAP", "UniSRecConfig", "copy_code"]
