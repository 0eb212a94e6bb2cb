"""Poolings of token states, layers behind them, and the width of the text vectors that they give."""

# Poolings of token states into a text vector, by the names of sentence-transformers.
TEXT_POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
# Layers after the pooling and their settings; a layer without an output size keeps that of its input.
TEXT_LAYERS = {
    "dense": {"in_features", "out_features", "bias", "activation", "residual"},
    "layer_norm": {"size"},
    "dropout": {"p"},
    "normalize": set(),
    "truncate": {"size"},
}
TEXT_ACTIVATIONS = ("ELU", "GELU", "Identity", "LeakyReLU", "Mish", "ReLU", "Sigmoid", "SiLU", "Softplus", "Tanh")


def text_vector_size(hidden_size: int, pooling: str, layers: list[dict] | None = None) -> int:
    r"""
    Returns the width of the text vectors of an encoder.

    Args:
        hidden_size (`int`): Width of its token states.
        pooling (`str`): One or more of `TEXT_POOLINGS`, joined by `+`.
        layers (`list[dict]`, *optional*): The layers behind the pooling, see `text_layers` of [`UniSRecConfig`].

    Raises:
        ValueError: If a pooling or layer is unknown, or the input size of a layer differs from the size before it.
    """
    names = pooling.split("+")
    if unknown := [name for name in names if name not in TEXT_POOLINGS]:
        raise ValueError(
            f"unknown text pooling {unknown[0]!r}; expected one of {', '.join(TEXT_POOLINGS)}, or several joined by '+'."
        )
    size = hidden_size * len(names)
    for layer in layers or []:
        kind = layer.get("type")
        if kind not in TEXT_LAYERS or not TEXT_LAYERS[kind] >= layer.keys() - {"type"}:
            raise ValueError(f"unknown text layer {layer!r}; expected a `type` of {', '.join(TEXT_LAYERS)}.")
        if layer.get("activation", "Identity") not in TEXT_ACTIVATIONS:
            raise ValueError(f"unknown activation {layer['activation']!r}; expected {', '.join(TEXT_ACTIVATIONS)}.")
        takes = {"dense": layer.get("in_features"), "layer_norm": layer.get("size")}.get(kind, size)
        if takes != size or (kind == "truncate" and layer["size"] > size):
            raise ValueError(f"the text layer {layer!r} does not take vectors of {size} numbers.")
        size = {"dense": layer.get("out_features"), "truncate": layer.get("size")}.get(kind, size)
    return size


__all__ = ["TEXT_ACTIVATIONS", "TEXT_LAYERS", "TEXT_POOLINGS", "text_vector_size"]
