"""Approximate search by FAISS with exact search as the fallback. An index is immutable; updates return a new one."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..data.domain import new_folder, writing
from .exact_index import ExactIndex


KINDS = ("auto", "ivf", "hnsw")
# Below the first size, exact search takes about a millisecond; above the second, building a graph takes too long.
HNSW_FROM, IVF_FROM = 50_000, 500_000
TARGET_RECALL = 0.95
MOST_FETCHED = 1024
CHANGED_SHARE = 0.1


def check_kind(kind: str) -> None:
    """Raises `ValueError` for a kind of index that FAISS does not build here."""
    if kind == "flat":
        raise ValueError("index kind 'flat': exact search finds the same items with the same scores; use 'exact'.")
    if kind not in KINDS:
        raise ValueError(f"index kind {kind!r}: expected one of {', '.join(KINDS)}.")


def choose_kind(kind: str, num_items: int) -> tuple[str, str]:
    """Returns the kind of index and a short reason. `"auto"` depends on the catalogue size, and is `"exact"` for a small
    one. Raises `ValueError`."""
    check_kind(kind)
    if kind != "auto":
        return kind, "as asked for"
    if num_items < HNSW_FROM:
        return "exact", f"fewer than {HNSW_FROM:,} items"
    if num_items < IVF_FROM:
        return "hnsw", f"from {HNSW_FROM:,} items"
    return "ivf", f"from {IVF_FROM:,} items"


def check_faiss() -> None:
    """Raises `ImportError` if FAISS is not installed."""
    if find_spec("faiss") is None:
        raise ImportError("an approximate index needs FAISS: pip install unisrec[ann]")


class FaissIndex:
    r"""
    Approximate search over item vectors by FAISS.

    A search retrieves more rows than requested and drops excluded ones; if too few remain, it falls back to exact
    search. Items added after the index was built are searched exactly, and once a tenth of the items has changed,
    [`~FaissIndex.update`] rebuilds the index. Scores are exact, so the only error is a missing row.

    Args:
        exact ([`ExactIndex`]): Exact index of the same vectors, on the CPU.
        kind (`str`): `"ivf"` or `"hnsw"`.
        faiss_index (`faiss.Index`): Index of these vectors, or of those of an earlier catalogue.
        rows (`torch.LongTensor` of shape `(num_labels,)`, *optional*):
            Row of each vector of `faiss_index`, -1 for a removed one. Defaults to the same order.
        recall (`float`, *optional*): Measured share of the exact top 10 that it finds, in [0, 1].
    """

    def __init__(self, exact: ExactIndex, kind: str, faiss_index, rows: torch.Tensor | None = None, recall: float = 1):
        self.exact, self.kind, self.faiss_index, self.recall = exact, kind, faiss_index, recall
        self.rows = torch.arange(faiss_index.ntotal) if rows is None else rows
        self._share_left = (self.rows >= 0).float().mean().item()
        is_new = torch.ones(len(exact), dtype=torch.bool)
        is_new[self.rows[self.rows >= 0]] = False
        self._new_rows = is_new.nonzero()[:, 0]  # few: compared one by one

    @property
    def vectors(self) -> torch.Tensor:
        """Item vectors `(num_items, hidden_size)`."""
        return self.exact.vectors

    def __len__(self) -> int:
        return len(self.exact)

    def __repr__(self) -> str:
        return f"FaissIndex({self.kind!r}, {len(self):,} items, recall={self.recall:.3f})"

    @classmethod
    def build(cls, exact: ExactIndex, queries: torch.Tensor, kind: str) -> "FaissIndex":
        r"""
        Builds an index whose search is wide enough to find 95 % of the exact top 10.

        Args:
            exact ([`ExactIndex`]): Exact index on the CPU.
            queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
                Typical queries, used to measure recall.
            kind (`str`): `"ivf"` or `"hnsw"`.

        Returns:
            [`FaissIndex`]: The index, with its measured recall.

        Raises:
            ImportError: If FAISS is not installed.
            ValueError: For another kind, or vectors that are not finite.
        """
        check_faiss()
        import faiss

        check_kind(kind)
        if not (exact.vectors.isfinite().all() and queries.isfinite().all()):
            raise ValueError("the item vectors hold numbers that are not finite, so no index can be built.")
        vectors = exact.vectors.float().numpy()
        width = vectors.shape[1]
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 80
        else:
            lists = max(1, round(2 * math.sqrt(len(vectors))))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.max_points_per_centroid = 64
            index.cp.min_points_per_centroid = 1  # a small catalogue needs no warning
            index.train(vectors)
        index.add(vectors)
        built = cls(exact, kind, index)
        for effort in (16, 32, 64, 128, 256, 512):
            built._look_at(effort)
            built.recall = recall(built, queries)
            if built.recall >= TARGET_RECALL:
                break
        return built

    def _look_at(self, effort: int) -> None:
        """Sets the number of lists or neighbours that a search visits."""
        if self.kind == "ivf":
            self.faiss_index.nprobe = min(effort, self.faiss_index.nlist)
        else:
            self.faiss_index.hnsw.efSearch = effort

    @torch.inference_mode()
    def search(
        self,
        queries: torch.Tensor,
        top_k: int,
        hidden: Sequence[Sequence[int]] | None = None,
        candidates: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Finds the rows with the highest scores for each query, of which it may miss some.

        Args:
            queries, top_k, hidden, candidates: As for [`ExactIndex.search`].

        Returns:
            `tuple[torch.FloatTensor, torch.LongTensor]`: Scores and rows, as [`ExactIndex.search`] returns them.
        """
        hidden = [set(rows) for rows in hidden] if hidden is not None else [set() for _ in queries]
        share = self._share_left * (1.0 if candidates is None else candidates.float().mean().item())
        fetched = top_k + max(map(len, hidden), default=0)
        fetched = fetched if share == 1 else math.ceil(2 * fetched / max(share, 1e-9))
        if top_k < 1 or len(queries) == 0 or fetched > min(MOST_FETCHED, len(self.rows)):
            return self.exact.search(queries, top_k, list(map(list, hidden)), candidates)
        queries = queries.float().cpu()
        found_scores, labels = map(torch.from_numpy, self.faiss_index.search(queries.numpy(), fetched))
        found_rows = torch.where(labels < 0, -1, self.rows[labels])
        new_scores = queries @ self.vectors[self._new_rows].float().T
        rows = torch.cat([found_rows, self._new_rows.expand(len(queries), -1)], dim=1)
        scores = torch.cat([found_scores, new_scores], dim=1)
        scores[rows < 0] = -torch.inf
        if candidates is not None:
            scores[~candidates.cpu()[rows]] = -torch.inf
        for place, items in enumerate(hidden):
            if items:
                scores[place, torch.isin(rows[place], torch.tensor(list(items)))] = -torch.inf
        rows, order = rows.sort(dim=1, stable=True)  # equal scores in the order of the rows
        scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        rows, scores = rows.gather(1, order)[:, :top_k], scores[:, :top_k]

        left = torch.tensor([self._num_left(items, candidates) for items in hidden]).clamp(max=top_k)
        short = ((scores > -torch.inf).sum(1) < left).nonzero()[:, 0]
        if len(short):
            again = [list(hidden[place]) for place in short.tolist()]
            scores[short], rows[short] = self.exact.search(queries[short], top_k, again, candidates)
        return scores, rows

    def _num_left(self, hidden: set[int], candidates: torch.Tensor | None) -> int:
        """Returns the number of rows allowed for a query."""
        if candidates is None:
            return len(self) - len(hidden)
        return int(candidates.sum() - candidates[list(hidden)].sum())

    def update(self, kept: torch.Tensor, added: torch.Tensor) -> "FaissIndex":
        """Returns a new index of the rows `kept` followed by the vectors `added`; this index is not changed."""
        exact = self.exact.update(kept, added)
        new_row = torch.full((len(self),), -1)
        new_row[kept] = torch.arange(len(kept))
        rows = torch.where(self.rows < 0, -1, new_row[self.rows])
        changed = int((rows < 0).sum()) + len(exact) - int((rows >= 0).sum())
        if changed > CHANGED_SHARE * len(rows):
            return self.rebuild(exact)
        return FaissIndex(exact, self.kind, self.faiss_index, rows, self.recall)

    def rebuild(self, exact: ExactIndex) -> "FaissIndex":
        """Returns an index of the same kind over the vectors of `exact`."""
        sample = torch.linspace(0, len(exact) - 1, min(256, len(exact))).long()
        return FaissIndex.build(ExactIndex(exact.vectors.cpu()), exact.vectors[sample].float().cpu(), self.kind)

    def save(self, output_dir: str | os.PathLike, item_ids: Sequence[str] | None = None) -> None:
        r"""
        Writes `index.faiss`, `index.json` (a description of the files) and `sample.safetensors` (a few vectors).

        Args:
            output_dir (`str` or `os.PathLike`): New or empty folder; it appears when it is complete.
            item_ids (`Sequence[str]`, *optional*): Ids of the rows, which `load` verifies.

        Raises:
            FileExistsError: If the folder holds something.
        """
        import faiss

        if not torch.equal(self.rows, torch.arange(len(self))):  # items have come and gone since it was built
            return self.rebuild(self.exact).save(output_dir, item_ids)
        with new_folder(output_dir) as draft, writing(output_dir):
            with open(draft / "index.faiss", "wb") as file:  # by a path, FAISS tells of a full disk on stderr only
                faiss.write_index(self.faiss_index, faiss.PyCallbackIOWriter(file.write))
            facts = {
                "kind": self.kind,
                "num_items": len(self),
                "hidden_size": self.vectors.shape[1],
                "recall@10": self.recall,
                "ids_sha256": None if item_ids is None else _hash_of_ids(item_ids),
                "index_sha256": _hash_of_file(draft / "index.faiss"),
            }
            (draft / "index.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            save_file({"vectors": _sample(self.vectors)}, draft / "sample.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike, exact: ExactIndex, item_ids: Sequence[str] | None = None) -> "FaissIndex":
        r"""
        Loads a saved index and verifies it against its description and the vectors and ids of the caller.

        Args:
            folder (`str` or `os.PathLike`): Folder written by [`~FaissIndex.save`].
            exact ([`ExactIndex`]): Exact index of the vectors that the saved index was built from.
            item_ids (`Sequence[str]`, *optional*): Ids of the rows.

        Returns:
            [`FaissIndex`]: The index.

        Raises:
            FileNotFoundError: If the folder holds no index.
            ImportError: If FAISS is not installed.
            ValueError: If a file is damaged or was replaced, or the index was built from other vectors or ids.
        """
        check_faiss()
        import faiss

        folder = Path(folder)
        if not (folder / "index.faiss").is_file():
            raise FileNotFoundError(
                f"{folder}: no index there; expected a folder that `unisrec index` wrote, or one of exact, exact-bf16, {', '.join(KINDS)}."
            )
        facts = _read_facts(folder)
        try:
            sample = load_file(folder / "sample.safetensors")["vectors"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{folder}: damaged, sample.safetensors cannot be read ({error}); {_AGAIN}") from error
        share = ", or of another share of text neighbours" if sample.shape[1:] != exact.vectors.shape[1:] else ""
        another = (
            f"{folder}: the index of {facts['num_items']:,} items is not of this checkpoint and catalogue "
            f"({len(exact):,} items){share}; build it again with `unisrec index`."
        )
        is_same = facts["ids_sha256"] is None or item_ids is None or facts["ids_sha256"] == _hash_of_ids(item_ids)
        # Before the large file is read.
        if facts["num_items"] != len(exact) or not is_same or not _are_close(sample, _sample(exact.vectors)):
            raise ValueError(another)
        if _hash_of_file(folder / "index.faiss") != facts["index_sha256"]:
            raise ValueError(f"{folder}: index.faiss is not the file that was saved with index.json; {_AGAIN}")
        index = faiss.read_index(str(folder / "index.faiss"))
        vectors = _stored_vectors(index, facts["kind"])
        if vectors is None or facts["hidden_size"] != vectors.shape[1]:
            raise ValueError(f"{folder}: index.faiss is no {facts['kind']} index as index.json says; {_AGAIN}")
        if not _are_close(vectors, exact.vectors.float()):
            raise ValueError(another)
        return cls(exact, facts["kind"], index, recall=facts["recall@10"])


_AGAIN = "build it again with `unisrec index`."


def _read_facts(folder: Path) -> dict[str, Any]:
    """Returns the content of `index.json`. Raises `ValueError` if it does not describe an index of this package."""
    types = {"kind": str, "num_items": int, "hidden_size": int, "recall@10": (int, float), "index_sha256": str}
    try:
        facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        wrong = [name for name, kind in types.items() if not isinstance(facts[name], kind)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{folder}: damaged, or of an earlier version (index.json: {error}); {_AGAIN}") from error
    if facts["kind"] == "flat":
        raise ValueError(f"{folder}: a flat index of an earlier version; use 'exact', which finds the same items.")
    if wrong or facts["kind"] not in KINDS[1:] or not 0 <= facts["recall@10"] <= 1:
        raise ValueError(f"{folder}: index.json describes no index ({wrong or facts}); {_AGAIN}")
    return {"ids_sha256": None} | facts


def _stored_vectors(index, kind: str) -> torch.Tensor | None:
    """Returns the vectors `(num_items, hidden_size)` of a FAISS index in the order of their rows, or `None` if it is of
    another kind or its rows are not 0 to num_items - 1."""
    import faiss

    kinds = {"hnsw": faiss.IndexHNSWFlat, "ivf": faiss.IndexIVFFlat}
    if not isinstance(index, kinds[kind]) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return None
    if kind == "hnsw":
        flat = faiss.downcast_index(index.storage)
        return torch.from_numpy(
            faiss.rev_swig_ptr(flat.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
        )
    vectors, rows = np.empty((index.ntotal, index.d), np.float32), []
    for place in range(index.nlist):
        size = index.invlists.list_size(place)
        if size:
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(place), size).copy()
            if ids.min() < 0 or ids.max() >= index.ntotal:
                return None
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(place), size * index.code_size)
            vectors[ids] = codes.view(np.float32).reshape(size, index.d)
            rows.append(ids)
    rows = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return torch.from_numpy(vectors) if np.array_equal(np.sort(rows), np.arange(index.ntotal)) else None


def _are_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Returns whether vectors are equal up to the rounding of another machine. NaN equals nothing."""
    return one.shape == other.shape and bool(((one - other).abs() <= 1e-3).all())


def _hash_of_ids(item_ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(item_ids)).encode()).hexdigest()


def _hash_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recall(index: FaissIndex, queries: torch.Tensor, top_k: int = 10) -> float:
    """Returns the mean share of the exact top k that an index finds for queries `(num_queries, hidden_size)`."""
    exact, found = (each.search(queries, top_k)[1].numpy() for each in (index.exact, index))
    return float(np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(exact, found, strict=True)]))


def _sample(vectors: torch.Tensor) -> torch.Tensor:
    """Returns up to 64 vectors, evenly spaced over the catalogue."""
    return vectors[torch.linspace(0, len(vectors) - 1, min(64, len(vectors))).long()].float().contiguous()


__all__ = ["KINDS", "FaissIndex", "check_faiss", "check_kind", "choose_kind", "recall"]
