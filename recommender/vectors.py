"""Encoding of texts, items and histories into vectors by one model."""

import copy
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from tqdm.auto import tqdm

from ..data.readers.values import check_count
from ..data.text_encoding import encode_texts
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.pipeline_unisrec import check_finite, encode_catalogue, encode_items
from ..modeling_unisrec.text_encoders import text_max_length
from ..modeling_unisrec.text_neighbours import TextSpace, mix, recent_texts, seen_discount, text_space_of


class VectorEncoder:
    r"""
    Encodes into vectors whose dot product is the similarity of the model; they have unit length unless
    `config.similarity` is `"dot"`.

    Args:
        model ([`UniSRecModel`]): Model in evaluation mode.
        processor ([`UniSRecProcessor`]): Processor of the model; its tokenizer is copied.
        text_neighbours (`float`, *optional*):
            Share of text neighbours in the similarity; by default that of the configuration. With any, vectors have
            `hidden_size + text_embedding_size` numbers.

    Raises:
        ValueError: As [`UniSRecConfig.text_neighbours_share`].
    """

    def __init__(self, model: UniSRecModel, processor: UniSRecProcessor, text_neighbours: float | None = None):
        self.model, self._given_share = model, text_neighbours
        model.config.text_neighbours_share(text_neighbours)  # raises
        # A tokenizer is not thread-safe: each call may change its settings.
        self._tokenizer, self._lock = copy.deepcopy(processor.tokenizer), threading.Lock()
        self._max_text_length = processor.max_text_length

    @property
    def text_neighbours(self) -> float:
        """Share of text neighbours in the similarity."""
        return self.model.config.text_neighbours_share(self._given_share)

    def texts(self, texts: Sequence[str], progress: bool | None = False) -> torch.Tensor:
        """Returns text vectors `(num_texts, text_embedding_size)` on the CPU; zeros if the model represents items by
        their ID alone. Raises `ValueError` if a text has to be encoded and there is no text encoder."""
        config, encoder = self.model.config, self.model.text_encoder
        if not texts or not config.item_text:
            return torch.zeros(len(texts), config.text_embedding_size)
        if encoder is None or self._tokenizer is None:
            missing = "text encoder" if encoder is None else "tokenizer"
            raise ValueError(
                f"no {missing} to read {texts[0][:80]!r} with: this checkpoint takes items of its catalogue only."
            )
        with self._lock:
            length = min(self._max_text_length, text_max_length(encoder, self._tokenizer))
            vectors = encode_texts(texts, encoder, self._tokenizer, max_length=length, progress=progress)
        return torch.from_numpy(vectors)

    def space(self, catalogue: ItemCatalogue) -> TextSpace | None:
        """Returns the text space for a catalogue with text vectors; `None` without text neighbours."""
        return text_space_of(self.model, catalogue.item_embeddings) if self.text_neighbours else None

    def items(self, text_vectors: torch.Tensor, id_rows: torch.Tensor, space: TextSpace | None) -> torch.Tensor:
        """Returns item vectors `(num_items, hidden_size)` from text vectors and rows of the ID embedding. Raises
        `ValueError` if a number is not finite."""
        return self._searchable_items(encode_items(self.model, text_vectors, id_rows), text_vectors, space)

    def catalogue(self, catalogue: ItemCatalogue, space: TextSpace | None) -> torch.Tensor:
        """Returns item vectors `(num_items, hidden_size)` of a catalogue with text vectors."""
        return self._searchable_items(encode_catalogue(self.model, catalogue), catalogue.item_embeddings, space)

    def users(
        self,
        processor: UniSRecProcessor,
        parsed: Sequence[Sequence[tuple[int | None, str]]],
        batch_size: int,
        space: TextSpace | None,
        progress: bool = False,
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor | None]]:
        """Yields positions of parsed histories, their vectors `(batch_size, hidden_size)`, and by how much text neighbours lower
        the scores of their own items `(batch_size,)` ([`seen_discount`]), batch by batch; histories of similar length are
        batched together, and empty ones are passed over. Raises `ValueError` for a batch size below 1."""
        check_count("batch_size", batch_size)
        longest, catalogue = processor.max_history_length, processor.catalogue
        texts = sorted({text for entries in parsed for row, text in entries[-longest:] if row is None})
        text_vectors, place_of_text = self.texts(texts), {text: place for place, text in enumerate(texts)}
        filled = (place for place, entries in enumerate(parsed) if entries)
        order = sorted(filled, key=lambda place: min(len(parsed[place]), longest))
        with tqdm(total=len(order), desc="Recommending", unit="history", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                item_index, rows, new_texts = processor.distinct_items([parsed[place] for place in places])
                known, new = rows[: len(rows) - len(new_texts)], [place_of_text[text] for text in new_texts]
                text_embeds = torch.cat([catalogue.item_embeddings[known], text_vectors[new]])
                vectors = self._user_vectors(item_index, text_embeds, catalogue.id_rows_of(rows), space)
                yield places, vectors, None if space is None else self.text_neighbours * seen_discount(item_index)
                bar.update(len(places))

    @torch.inference_mode()
    def _user_vectors(
        self, item_index: torch.Tensor, text_embeds: torch.Tensor, id_rows: torch.Tensor, space: TextSpace | None
    ) -> torch.Tensor:
        item_index, text_embeds, id_rows = (
            tensor.to(self.model.device) for tensor in (item_index, text_embeds, id_rows)
        )
        item_embeds = self.model.get_item_features(text_embeds, id_rows=id_rows)
        parts = [self.model.get_sequence_features(part, item_embeds) for part in _trim(item_index)]
        users = self.model.project_sequences(check_finite(torch.cat(parts).float(), "vectors of histories"))
        if space is None:
            return users
        return mix(users, recent_texts(item_index, space.map(text_embeds)), self.text_neighbours)

    def _searchable_items(
        self, item_embeds: torch.Tensor, text_vectors: torch.Tensor, space: TextSpace | None
    ) -> torch.Tensor:
        """Returns item vectors ready for search, in float32. Raises `ValueError` if not finite."""
        items = self.model.project_items(check_finite(item_embeds.float(), "vectors of items"))
        return items if space is None else mix(items, space.map(text_vectors.to(items.device)), self.text_neighbours)


def _trim(item_index: torch.Tensor) -> list[torch.Tensor]:
    """Cuts a batch of histories of rising length into parts of similar length. On a CPU, whose time follows the number of
    positions, each has at most a quarter of padding; on an accelerator a batch is one part, since its time follows the
    number of launches."""
    if item_index.device.type != "cpu":
        return [item_index]
    lengths = (item_index > 0).sum(1).tolist()
    starts = [0]
    for place, length in enumerate(lengths):
        if length > 4 / 3 * lengths[starts[-1]] + 1:
            starts.append(place)
    return [item_index[start:end, : lengths[end - 1]] for start, end in pairwise([*starts, len(lengths)])]


__all__ = ["VectorEncoder"]
