"""Text encoders, under the name by which code that reads data has always imported them."""

from ..modeling_unisrec.text_encoders import find_text_encoder, find_text_pooling, load_text_encoder


__all__ = ["find_text_encoder", "find_text_pooling", "load_text_encoder"]
