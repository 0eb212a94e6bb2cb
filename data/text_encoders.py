"""Text encoders, re-exported for code that imports them from `data`."""

from ..modeling_unisrec.text_encoders import find_text_encoder, find_text_pooling, load_text_encoder


__all__ = ["find_text_encoder", "find_text_pooling", "load_text_encoder"]
