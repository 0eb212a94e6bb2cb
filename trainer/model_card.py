"""The model card of a checkpoint: what it was trained on and what it reached, from the template `model_card.md`."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..data import Domain
from .training_args import UniSRecTrainingArguments


# In the root of a checkout, and inside the package of an installation: both are one above this folder.
TEMPLATE = Path(__file__).parents[1] / "model_card.md"
SETTINGS = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "seed")
PROTOCOLS = {"seen items kept": "", "seen items masked": "_seen_masked"}


def write_model_card(
    folder: Path,
    domains: Sequence[Domain],
    args: UniSRecTrainingArguments,
    summary: str,
    history: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> None:
    r"""
    Writes `README.md` into a checkpoint folder.

    Args:
        folder (`Path`): The checkpoint folder; its name becomes the title.
        domains (`Sequence[Domain]`): What it was trained on.
        args ([`UniSRecTrainingArguments`]): How.
        summary (`str`): What the model is, in one sentence.
        history (`Sequence[str]`, *optional*): Two or three ids of the catalogue for the example, if there is one.
        metrics (`Mapping[str, float]`, *optional*): Test metrics by the names of [`ranking_metrics`].
    """
    name = folder.name
    if history:
        snippet = (
            "from unisrec import Recommender\n\n"
            f'recommender = Recommender.from_pretrained("{name}")\n'
            f"print(recommender.recommend([{list(history)!r}], top_k=5))"
        )
    else:
        snippet = (
            "import unisrec  # makes the model known to the Auto classes\n"
            "from transformers import AutoModel, AutoProcessor\n\n"
            f'model = AutoModel.from_pretrained("{name}").eval()\n'
            f'processor = AutoProcessor.from_pretrained("{name}")\n'
            'batch = processor([[{"text": "garden hose 15 m"}, {"text": "spray nozzle"}]])\n'
            "print(model(**batch).sequence_embeds.shape)"
        )
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="feature-extraction",
            tags=["unisrec", "recommendation", "sequential-recommendation"],
            license="apache-2.0",
        ),
        template_path=str(TEMPLATE),
        model_name=name,
        summary=summary,
        snippet=snippet,
        domains=[
            {
                "name": domain.name,
                "num_users": domain.num_users,
                "num_items": domain.num_items,
                "num_interactions": domain.num_interactions,
                "content_hash": domain.content_hash,
            }
            for domain in domains
        ],
        metrics=[
            {
                "protocol": protocol,
                **{key.removesuffix(suffix): metrics[key] for key in metrics if key.endswith(suffix)},
            }
            for protocol, suffix in PROTOCOLS.items()
        ]
        if metrics
        else [],
        settings={name: value for name, value in args.to_dict().items() if name in SETTINGS},
        versions=", ".join(f"{package} {version(package)}" for package in ("unisrec", "transformers", "torch")),
    )
    card.save(folder / "README.md")


__all__ = ["write_model_card"]
