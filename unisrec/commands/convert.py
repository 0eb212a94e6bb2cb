"""`unisrec convert`: official checkpoint (.pth) -> checkpoint folder."""

import argparse
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import numpy as np

    from ..data import Domain
    from ..modeling_unisrec import ItemCatalogue
    from ..modeling_unisrec.convert_official import OfficialConversion


EXAMPLE = """\
example:
  unisrec convert --official UniSRec-FHCKM-300.pth --text-encoder bert-base-uncased --output runs/official

Nothing that the file pickles is run, and RecBole is not needed. A fine-tuned checkpoint holds neither ids nor texts of its
items; --domain takes them from the folder that unisrec prepare recbole made of the official data it was fine-tuned on.
"""
# Minimum share of items whose text vector matches their row. A wrong order or encoder matches almost none; the right
# ones may differ for a few items whose texts were cleaned differently.
ENOUGH = 0.99


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


def run(args: argparse.Namespace) -> int:
    from ..data import Domain
    from ..data.domain import check_output_folder, new_folder
    from ..data.given_features import given_text_features
    from ..data.text_features import load_text_features, text_max_length
    from ..modeling_unisrec import UniSRecProcessor
    from ..modeling_unisrec.convert_official import convert_official_checkpoint
    from ..modeling_unisrec.text_encoders import load_text_encoder

    check_output_folder(args.output)
    conversion = convert_official_checkpoint(args.official)
    model = conversion.model
    print(report(conversion))
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
        print(
            f"\nno catalogue: the file has vectors of {len(conversion.item_embeddings):,} items but no ids; see --domain"
        )
    with new_folder(args.output) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
    print(f"\ncheckpoint: {args.output}")
    return 0


def report(conversion: "OfficialConversion") -> str:
    """Lists the tensors read from an official checkpoint, with their new names, and the ignored entries."""
    rows = [(name, " x ".join(map(str, shape)), ours) for name, (shape, ours) in conversion.used.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{conversion.stage} checkpoint, {conversion.model.num_parameters():,} parameters", ""]
    for name, shape, ours in [("official", "shape", "here"), *rows]:
        lines.append(f"{name:{widths[0]}}  {shape:{widths[1]}}  {ours}")
    lines += ["", "not used"]
    lines += [f"  {name if name.isprintable() else ascii(name)}: {what}" for name, what in conversion.ignored.items()]
    lines += ["", "settings"]
    for name, (value, is_read) in conversion.settings.items():
        lines.append(
            f"  {name} = {value} ({'of the checkpoint' if is_read else 'of the paper; the checkpoint has none'})"
        )
    return "\n".join(lines)


def official_item_order(conversion: "OfficialConversion", domain: "Domain") -> "np.ndarray":
    r"""
    Returns the domain item of each row of a fine-tuned checkpoint, in the order in which RecBole numbers the items of
    an official downstream folder.

    Items are numbered by first appearance: in the targets of the training rows (user by user, latest first), then in
    those of validation and test rows, and last in the histories, where only the first item of a user can be new.

    Args:
        conversion ([`OfficialConversion`]): The checkpoint.
        domain (`Domain`): Domain read from the folder it was fine-tuned on, with users in the order of the files.

    Returns:
        `np.ndarray` of shape `(num_items,)`: Rows of `domain.items`.

    Raises:
        ValueError: If the checkpoint has no items, or another number of items than the domain.
    """
    import polars as pl

    if conversion.item_embeddings is None:
        raise ValueError(
            "--domain: a pre-trained checkpoint has no items; adapt it to the domain by unisrec finetune."
        )
    items = pl.col("item_index")
    has_train_rows = items.list.len() > 3
    users = domain.sequences
    appearances = [
        users.filter(has_train_rows).select(items.list.slice(1, items.list.len() - 3).list.reverse().explode()),
        users.select(items.list.get(-2, null_on_oob=True)),
        users.select(items.list.get(-1)),
        users.filter(has_train_rows).select(items.list.first()),
        users.filter(~has_train_rows).select(items.list.first()),
    ]
    order = pl.concat(appearances)["item_index"].drop_nulls().unique(maintain_order=True)
    if not len(order) == len(conversion.item_embeddings) == domain.num_items:
        raise ValueError(
            f"--domain: the checkpoint has {len(conversion.item_embeddings):,} items, {domain.name} has "
            f"{domain.num_items:,}, {len(order):,} of them in histories; expected the domain that unisrec prepare recbole "
            "made of the official folder the checkpoint was fine-tuned on."
        )
    return order.to_numpy()


def arrange_items(
    conversion: "OfficialConversion", domain: "Domain", order: "np.ndarray", vectors: "np.ndarray | None"
) -> "ItemCatalogue":
    r"""
    Reorders the items of a fine-tuned checkpoint, including its ID embedding, into the order of a domain, in place.

    Args:
        conversion ([`OfficialConversion`]): The checkpoint.
        domain (`Domain`): The domain it was fine-tuned on.
        order (`np.ndarray` of shape `(num_items,)`): Result of [`official_item_order`].
        vectors (`np.ndarray` of shape `(num_items, text_embedding_size)` or `None`):
            Text vectors of the domain, used to verify the order.

    Returns:
        [`ItemCatalogue`]: The items of the domain with the text vectors of the checkpoint.

    Raises:
        ValueError: If the items are not those of the domain, or there are no text vectors to verify the order.
    """
    import torch
    from torch.nn import functional as F

    from ..modeling_unisrec import ItemCatalogue

    if vectors is None:
        raise ValueError(
            f"--domain: no text vectors came with {domain.name}, so the order of the items cannot be checked; name the "
            "--text-encoder of the checkpoint too."
        )
    row_of_item = torch.from_numpy(order.astype("int64")).argsort()
    embeddings = conversion.item_embeddings[row_of_item].float()
    expected = torch.from_numpy(vectors.copy())
    centre = expected.mean(0)  # raw text vectors all point into one direction
    found, expected = F.normalize(embeddings - centre, dim=-1), F.normalize(expected - centre, dim=-1)
    nearest = torch.cat([(rows @ expected.T).amax(1) for rows in found.split(1024)])
    share = ((found * expected).sum(1) >= nearest - 1e-3).float().mean().item()
    if share < ENOUGH:
        raise ValueError(
            f"--domain: only {share:.1%} of the items of {domain.name} have the text vector of their row in the "
            "checkpoint; expected the official data and the text encoder that it was fine-tuned with."
        )
    if conversion.model.item_embedding is not None:
        weight = conversion.model.item_embedding.weight.data
        weight[1:] = weight[1:][row_of_item]
    catalogue = ItemCatalogue(domain.items["item_id"].to_list(), domain.items["text"].to_list(), embeddings)
    if conversion.model.item_embedding is not None:
        conversion.model.config.item_ids_hash = catalogue.item_ids_hash
    return catalogue
