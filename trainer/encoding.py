"""How a training encodes item texts."""

from typing import Any

import torch

from .training_args import UniSRecTrainingArguments


def encoding_options(args: UniSRecTrainingArguments) -> dict[str, Any]:
    """Returns the arguments of [`domain_features`] that follow from training arguments."""
    return {
        "seed": args.seed,
        "device": args.device,
        "dtype": torch.bfloat16 if args.bf16 else None,
        "progress": not args.disable_tqdm,
        # Only the first process of all machines encodes, since they share the domain folder.
        "main_process_first": args.main_process_first(local=False, desc="encoding texts"),
    }


__all__ = ["encoding_options"]
