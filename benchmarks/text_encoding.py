"""Vectors of item texts, ours against `SentenceTransformer.encode` and against the official way (four at a time, unsorted).

    python benchmarks/text_encoding.py
    python benchmarks/text_encoding.py --domain domains/beauty      # texts of a catalogue, drawn at random

The packaged MiniLM, mean pooling; ours in float32 and, as with `--bf16 true`, in bfloat16, which pays on a CPU with AVX512-BF16 or
AMX. Texts are random words, as long as titles with categories and brands, if no catalogue is given; every one is different. The
official way, which takes long, gets a quarter of them. The least cosine of the vectors with those of the other way, which is in
float32, is printed with each row.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _timing import compare, header, parser

from unisrec.data import Domain
from unisrec.data.text_encoding import encode_texts
from unisrec.modeling_unisrec.text_encoders import find_text_encoder, load_text_encoder


def make_texts(number: int) -> list[str]:
    """Random whole words: about 30 tokens, some three times as many."""
    rng = np.random.default_rng(0)
    _, tokenizer = load_text_encoder("minilm")
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    lengths = np.clip(rng.lognormal(np.log(26), 0.5, number), 3, 200).astype(int)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def texts_of(domain: Path, number: int) -> list[str]:
    """Different texts of a catalogue, drawn at random: batches of four neighbours are then as ragged as the catalogue is."""
    texts = sorted(set(Domain.load_from_disk(domain).items["text"]))
    return np.random.default_rng(0).permutation(texts)[:number].tolist()


def encodings(texts: list[str], path: str, dtype: torch.dtype | None = None) -> Callable[[], np.ndarray]:
    """A function that encodes the texts, `path` "ours" (with products of type `dtype`), "sentence-transformers" or "official"."""
    if path == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(find_text_encoder("minilm"), device="cpu")
        return lambda: model.encode(texts, show_progress_bar=False)
    encoder, tokenizer = load_text_encoder("minilm")
    if path == "ours":
        return lambda: encode_texts(texts, encoder, tokenizer, pooling="mean", dtype=dtype, progress=False)

    @torch.no_grad()
    def official() -> np.ndarray:
        vectors = []
        for start in range(0, len(texts), 4):
            batch = tokenizer(
                texts[start : start + 4], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors.append((encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
        return torch.cat(vectors).numpy()

    return official


def least_cosine(left: np.ndarray, right: np.ndarray) -> float:
    products = (left * right).sum(1)
    return float((products / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min())


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--texts", type=int, default=400, help="Texts to encode.")
    args.add_argument("--domain", type=Path, help="Domain folder whose texts to take instead of random ones.")
    args = args.parse_args()
    number = 8 if args.smoke else args.texts
    texts = texts_of(args.domain, number) if args.domain else make_texts(number)
    print(header())
    for name, part in (("sentence-transformers", texts), ("official", texts[: len(texts) // 4])):
        reference = encodings(part, name)
        for dtype in (None, torch.bfloat16):
            ours = encodings(part, "ours", dtype)
            cosine = least_cosine(ours(), reference())
            assert cosine > 0.999, f"vectors differ from those of {name}: least cosine {cosine}"
            comparison = compare(
                f"{len(part):,} texts, {'float32' if dtype is None else 'bfloat16'}, reference {name}, least cosine {cosine:.6f}",
                ours,
                reference,
                1 if args.smoke else args.rounds,
                calls=1,
            )
            print(comparison.row(), flush=True)


if __name__ == "__main__":
    main()
