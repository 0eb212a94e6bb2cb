"""`unisrec convert`: official checkpoint (.pth) -> checkpoint folder."""

import argparse
from typing import TYPE_CHECKING

from ..words import plural
from ._shared import Result, add_json, table


if TYPE_CHECKING:
    from ..modeling_unisrec.convert_official import OfficialConversion


EXAMPLE = """\
example:
  unisrec convert --official UniSRec-FHCKM-300.pth --text-encoder bert-base-uncased --output runs/official

The pickle in the file is read as data and never executed; RecBole is not required. A fine-tuned checkpoint holds neither
ids nor texts of its items: --domain adds them, from a folder that unisrec prepare recbole made of its official data.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--official", required=True, metavar="FILE", help="checkpoint of the official code, a .pth file"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to add; the official one is bert-base-uncased"
    )
    parser.add_argument("--domain", metavar="DIR", help="domain folder of the data the checkpoint was fine-tuned on")
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    from ..data import Domain
    from ..data.domain import check_output_folder, new_folder, writing
    from ..data.given_features import given_text_features
    from ..data.readers.official_items import arrange_items, official_item_order
    from ..data.text_features import load_text_features
    from ..modeling_unisrec import UniSRecProcessor
    from ..modeling_unisrec.convert_official import convert_official_checkpoint
    from ..modeling_unisrec.text_encoders import load_text_encoder, text_max_length

    check_output_folder(args.output)
    conversion = convert_official_checkpoint(args.official)
    model = conversion.model
    text = report(conversion)
    found = {
        "stage": conversion.stage,
        "parameters": model.num_parameters(),
        "tensors": {name: {"shape": list(shape), "name": ours} for name, (shape, ours) in conversion.used.items()},
        "ignored": dict(conversion.ignored),
        "settings": {name: value for name, (value, _) in conversion.settings.items()},
        "checkpoint": args.output,
    }
    processor = UniSRecProcessor(max_history_length=model.config.max_position_embeddings)
    if args.text_encoder is not None:
        encoder, processor.tokenizer = load_text_encoder(args.text_encoder)
        model.attach_text_encoder(encoder)
        processor.max_text_length = text_max_length(encoder, processor.tokenizer)
    if args.domain is not None:
        domain = Domain.load_from_disk(args.domain)
        order = official_item_order(conversion, domain)
        if args.text_encoder is not None:
            vectors = load_text_features(args.domain, domain.items["text"].to_list(), encoder, processor.tokenizer)
        else:
            vectors = given_text_features(domain, model.config.text_embedding_size)
        processor.catalogue = arrange_items(conversion, domain, order, vectors)
    elif conversion.item_embeddings is not None:
        held = plural(len(conversion.item_embeddings), "item")
        text += f"\n\nno catalogue: the file has the vectors of {held} but no ids; --domain adds them"
    with new_folder(args.output) as draft, writing(args.output):
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
    return Result(f"{text}\n\ncheckpoint: {args.output}", found)


def report(conversion: "OfficialConversion") -> str:
    """Lists the tensors read from an official checkpoint, with their new names, and the ignored entries."""
    rows = [(name, " x ".join(map(str, shape)), ours) for name, (shape, ours) in conversion.used.items()]
    lines = [f"{conversion.stage} checkpoint, {conversion.model.num_parameters():,} parameters", ""]
    lines.append(table(("official", "shape", "here"), rows))
    lines += ["", "not used"]
    lines += [f"  {name if name.isprintable() else ascii(name)}: {what}" for name, what in conversion.ignored.items()]
    lines += ["", "settings"]
    for name, (value, is_read) in conversion.settings.items():
        lines.append(
            f"  {name} = {value} ({'of the checkpoint' if is_read else 'of the paper; the checkpoint has none'})"
        )
    return "\n".join(lines)
