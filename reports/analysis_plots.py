"""Plots of analyses: catalogue map, use of the experts, and recall by item popularity."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from ..data import Domain, leave_one_out
from ..data.domain_features import domain_features
from ..data.training_data import check_unseen
from ..evaluation.analysis import metrics_by_popularity, principal_plane
from ..evaluation.launch import make_accelerator
from ..evaluation.ranking import RankingDataset, rank_targets
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.checkpoint import load_checkpoint
from ..modeling_unisrec.text_neighbours import enter_catalogue
from .plots import new_figure, plain, save_figure


MAP_POINTS = 2_000  # per domain; more points would hide each other


@torch.inference_mode()
def domain_vectors(
    model_name: str | os.PathLike, folders: Sequence[str | os.PathLike], use_cpu: bool = False
) -> dict[str, tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    r"""
    Computes the text vectors, item vectors and expert weights of the catalogues of several domains.

    Args:
        model_name (`str` or `os.PathLike`): Folder or Hub id.
        folders (`Sequence` of `str` or `os.PathLike`): Domain folders.
        use_cpu (`bool`, *optional*, defaults to `False`): Do not use an accelerator.

    Returns:
        `dict`: By name of the domain: text vectors `(num_items, text_embedding_size)`, item vectors without an ID
        embedding `(num_items, hidden_size)`, mean weight of each expert `(num_experts,)`.

    Raises:
        ValueError: If the model represents items by ID only, has no text encoder, or two domains have the same name.
    """
    accelerator = make_accelerator(use_cpu)
    model, processor = load_checkpoint(model_name)
    if model.adaptor is None:
        raise ValueError(f"{model_name}: this model represents items by ID only; it has no text adaptor to analyse.")
    model.eval().to(accelerator.device)
    found: dict[str, tuple[torch.Tensor, torch.Tensor, np.ndarray]] = {}
    for folder in folders:
        domain = Domain.load_from_disk(folder)
        if domain.name in found:
            raise ValueError(f"{folder}: another domain is also named {domain.name!r}; give each domain once.")
        texts = _text_vectors(domain, model, processor, accelerator)
        texts = torch.from_numpy(np.array(texts, dtype=np.float32))
        parts = [part.to(model.device, model.adaptor.weight.dtype) for part in texts.split(8192)]
        items = torch.cat([model.adaptor(part).float().cpu() for part in parts])
        gates = torch.cat([model.adaptor.gate(part).float().cpu() for part in parts])
        found[domain.name] = texts, items, gates.mean(0).numpy()
    return found


def metrics_of_models(
    models: Mapping[str, str], domain_dir: str | os.PathLike, use_cpu: bool = False
) -> dict[str, dict[str, dict[str, float]]]:
    r"""
    Computes test metrics of checkpoints on one domain, by the number of training interactions of the target.

    Args:
        models (`Mapping[str, str]`): Folders or Hub ids by the name to show.
        domain_dir (`str` or `os.PathLike`): Domain folder.
        use_cpu (`bool`, *optional*, defaults to `False`): Do not use an accelerator.

    Returns:
        `dict`: Result of [`metrics_by_popularity`] for each model, by name.
    """
    accelerator = make_accelerator(use_cpu)
    domain = Domain.load_from_disk(domain_dir)
    train, test = leave_one_out(domain, "train"), leave_one_out(domain, "test")
    found = {}
    for name, model_name in models.items():
        model, processor = load_checkpoint(model_name)
        check_unseen(model_name, model.config, domain, "take a model that holds out")
        texts = _text_vectors(domain, model, processor, accelerator)
        model.detach_text_encoder()
        users = RankingDataset(test, texts)
        ranks = rank_targets(model, users, accelerator=accelerator)
        found[name] = metrics_by_popularity(ranks, users.targets, train, domain.num_items)
    return found


def _text_vectors(
    domain: Domain,
    model: UniSRecModel,
    processor: UniSRecProcessor,
    accelerator: Accelerator,
) -> np.ndarray:
    vectors = domain_features(
        domain,
        model.text_encoder,
        processor.tokenizer,
        model.config,
        device=accelerator.device,
        shared=True,
    )
    enter_catalogue(model, vectors)
    return vectors


def plot_analysis(
    file: Path,
    gates: Mapping[str, np.ndarray] | None = None,
    popularity: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> None:
    r"""
    Plots the use of the experts by domain, recall by popularity of the target, or both, as one PNG.

    Args:
        file (`Path`): Output file.
        gates (`Mapping[str, np.ndarray]`, *optional*): Mean weight of each expert, by domain.
        popularity (`Mapping`, *optional*): Results of [`metrics_by_popularity`], by model.

    Raises:
        ImportError: If matplotlib is not installed (`pip install unisrec[plots]`).
    """
    figure, panels = new_figure((gates is not None) + (popularity is not None))
    if gates is not None:
        axes = panels[0]
        experts = np.arange(len(next(iter(gates.values()))))
        width = 0.8 / len(gates)
        for place, (name, use) in enumerate(gates.items()):
            axes.bar(experts + (place - (len(gates) - 1) / 2) * width, use, width, label=plain(name))
        axes.axhline(1 / len(experts), color="0.6", linewidth=0.8, linestyle="--", label="even use")
        axes.set(xlabel="expert", ylabel="mean gate weight", title="Use of the experts", xticks=experts)
    if popularity is not None:
        axes = panels[-1]
        for name, buckets in popularity.items():
            recall = [bucket["recall@10"] for bucket in buckets.values()]
            ticks = [f"{interactions}\n{bucket['num_users']:,}" for interactions, bucket in buckets.items()]
            axes.plot(ticks, recall, marker="o", label=plain(name))
        axes.set(xlabel="training interactions of the target, users", ylabel="R@10, test, seen items kept")
        axes.set_title("Recall by popularity of the target")
        axes.set_ylim(bottom=0)
    save_figure(figure, file)


def plot_catalogue_map(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], file: Path) -> None:
    r"""
    Plots catalogues before and after the adaptor, coloured by domain, on the first two principal components.

    Args:
        before (`Mapping[str, torch.Tensor]`): Text vectors `(num_items, text_embedding_size)`, by domain.
        after (`Mapping[str, torch.Tensor]`): Item vectors `(num_items, hidden_size)`, by domain.
        file (`Path`): Output file.

    Raises:
        ImportError: If matplotlib is not installed (`pip install unisrec[plots]`).
    """
    figure, panels = new_figure(2)
    for axes, title, vectors in zip(panels, ("Text vectors", "Behind the adaptor"), (before, after), strict=True):
        drawn = [_thin(F.normalize(each, dim=-1)) for each in vectors.values()]
        points = torch.cat(drawn)
        mean, plane = principal_plane(points)
        places = ((points - mean) @ plane).numpy()
        colors = np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
        order = np.random.default_rng(0).permutation(len(places))  # so that no domain covers the others
        axes.scatter(*places[order].T, s=5, c=[f"C{color}" for color in colors[order]], alpha=0.6, linewidths=0)
        for color, name in enumerate(vectors):
            axes.scatter([], [], s=20, c=f"C{color}", label=plain(name))
        share = np.square(places).sum() / (points - mean).square().sum().item()
        axes.set(title=f"{title} ({share:.0%} of the variance)", xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
    save_figure(figure, file)


def _thin(vectors: torch.Tensor) -> torch.Tensor:
    """Selects up to `MAP_POINTS` evenly spaced rows."""
    return vectors[torch.linspace(0, len(vectors) - 1, min(len(vectors), MAP_POINTS)).long()]


__all__ = ["domain_vectors", "metrics_of_models", "plot_analysis", "plot_catalogue_map"]
