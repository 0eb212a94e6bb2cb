"""A checkpoint and its catalogue as a function from histories to ranked items."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ..data import Domain
from ..data.text_features import encode_texts
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor, rank_items
from ..trainer.checkpoints import load_checkpoint


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `score` is the cosine of history and item, in [-1, 1]."""

    item_id: str
    text: str
    score: float

    def to_dict(self) -> dict[str, str | float]:
        """As a plain dictionary."""
        return asdict(self)


class Recommender:
    r"""
    Ranks the catalogue of a checkpoint for histories of item ids and of texts that exist nowhere else.

    Args:
        model ([`UniSRecModel`]): The model; it is put into evaluation mode.
        processor ([`UniSRecProcessor`]): With a catalogue.

    Raises:
        ValueError: If the processor has no catalogue, or it is not the one of a transductive model.

    Example:

    ```python
    >>> recommender = Recommender.from_pretrained("runs/office")  # doctest: +SKIP
    >>> recommender.recommend([["B00006IE7J", "label maker tape, black on white"]], top_k=3)  # doctest: +SKIP

    ```
    """

    def __init__(self, model: UniSRecModel, processor: UniSRecProcessor):
        if processor.catalogue is None:
            raise ValueError(
                "the checkpoint has no catalogue to recommend from; finetune it on a domain, or name a domain folder "
                "whose items are to be ranked (--domain on the command line)."
            )
        size = len(processor.catalogue)
        if model.config.num_items not in (None, size):
            raise ValueError(
                f"the checkpoint is transductive with {model.config.num_items} items, the catalogue has {size}: take "
                "the catalogue saved with it, or an inductive checkpoint."
            )
        self.model = model.eval()
        self.processor = processor
        catalogue = processor.catalogue
        if catalogue.item_embeddings is None:
            vectors = encode_texts(
                catalogue.texts, model.text_encoder, processor.tokenizer, pooling=model.config.text_pooling
            )
            catalogue.item_embeddings = torch.from_numpy(vectors)
        with torch.inference_mode():
            self.item_embeds = model.get_item_features(
                text_embeds=catalogue.item_embeddings.to(model.device),
                item_ids=torch.arange(1, size + 1, device=model.device),
            )

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, domain_dir: str | os.PathLike | None = None
    ) -> "Recommender":
        r"""
        A recommender from a checkpoint.

        Args:
            name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            domain_dir (`str` or `os.PathLike`, *optional*):
                Domain folder whose items are ranked instead of the checkpoint's own catalogue (inductive models).
        """
        model, processor = load_checkpoint(name_or_path)
        if domain_dir is not None:
            items = Domain.load_from_disk(domain_dir).items
            processor.catalogue = ItemCatalogue(items["item_id"].to_list(), items["text"].to_list())
        return cls(model, processor)

    @torch.inference_mode()
    def recommend(
        self,
        histories: Sequence[Sequence[str | Mapping[str, str]]],
        top_k: int = 10,
        exclude_seen: bool = True,
    ) -> list[list[Recommendation]]:
        r"""
        The best items for each history.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first, each an id of the catalogue or a text; see [`UniSRecProcessor.parse`].
            top_k (`int`, *optional*, defaults to 10): How many, at most the catalogue.
            exclude_seen (`bool`, *optional*, defaults to `True`): Leave out what the history holds.

        Returns:
            `list[list[Recommendation]]`: For each history, best first; equal scores in catalogue order.

        Raises:
            KeyError: For an unknown id, naming the nearest known ones.
            ValueError: For an empty history, or a `top_k` below 1.
        """
        batch = self.processor(histories).to(self.model.device)
        scores = self.model.similarity(self.model(**batch).sequence_embeds, self.item_embeds)
        seen = [
            [item for item, _ in map(self.processor.parse, history) if exclude_seen and item is not None]
            for history in histories
        ]
        catalogue = self.processor.catalogue
        return [
            [Recommendation(catalogue.item_ids[row], catalogue.texts[row], score) for row, score in items]
            for items in rank_items(scores, seen, top_k)
        ]


__all__ = ["Recommendation", "Recommender"]
