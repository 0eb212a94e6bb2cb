"""How a training encodes item texts."""

from typing import Any

from .training_args import UniSRecTrainingArguments


def encoding_options(args: UniSRecTrainingArguments) -> dict[str, Any]:
    """Returns the arguments of [`domain_features`] that follow from training arguments."""
    return {
        "seed": args.seed,
        "device": args.device,
        "text_dtype": "bfloat16" if args.bf16 and args.text_dtype == "auto" else args.text_dtype,
        "shared": True,
        "progress": False if args.disable_tqdm else None,
    }


__all__ = ["encoding_options"]
