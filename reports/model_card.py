"""Model card of a checkpoint: facts collected during training, rendered by the template `model_card.md`."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..configuration import UniSRecConfig
from ..data import Domain
from ..data.readers.table import DATASET, ENDINGS
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.hub import RELEASED, split_revision
from ..modeling_unisrec.text_encoders import PACKAGED_ENCODER, PACKAGED_ENCODER_NAMES
from . import card_tables
from .card_tables import KindOfRun
from .card_use import TEMPLATE, UseFacts, load_template
from .plots import plot_run
from .run_results import RunResults
from .training_log import thin_rows, training_rows


CURVES = "curves.png"
TAGS = ("unisrec", "recommendation", "sequential-recommendation")
PACKAGES = ("unisrec", "torch", "transformers", "accelerate", "safetensors")
MOST_ROWS = 20


@dataclass
class UniSRecModelCardData:
    r"""
    Facts for a model card that do not follow from model and arguments. Unknown facts are left out of the card.

    > Given by [`pretrain`], [`finetune`] or the user

    Args:
        domains (`Sequence[Domain]`, *optional*): Training domains.
        text_encoder (`str`, *optional*): Name or path that the text encoder was loaded from.
        base_model (`str`, *optional*): Name or path of the checkpoint that training started from.
        from_scratch (`bool`, *optional*): Whether training started from random weights.
        test_metrics (`Mapping[str, float]`, *optional*): Test metrics by the names of [`ranking_metrics`].
        num_test_users (`int`, *optional*): Number of test users.
        compared ([`RunResults`], *optional*): Another run, shown for comparison.
        zero_shot_domain (`str`, *optional*): Name of the domain that the model was validated on and not trained on.

    > Collected by [`ModelCardCallback`]

        in_training (`bool`): Whether training is under way.
        log (`list[dict[str, float]]`): Entries of the training log, including those before a resumption.
        resumed (`bool`): Whether training was resumed.

    > Set by the trainer

        kind_of_run (`str`, *optional*): `"pretraining"` or `"finetuning"`.
        interpolation_share (`float`, *optional*): Share of the fine-tuned weights in interpolated weights.
        kept_start (`bool`): Whether the model is that from before training, which ranked the validation users better.
    """

    domains: Sequence[Domain] = ()
    text_encoder: str | None = None
    base_model: str | None = None
    from_scratch: bool | None = None
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    num_test_users: int | None = None
    compared: RunResults | None = None
    zero_shot_domain: str | None = None

    log: list[dict[str, float]] = field(default_factory=list, init=False)
    resumed: bool = field(default=False, init=False)
    interpolation_share: float | None = field(default=None, init=False)
    kept_start: bool = field(default=False, init=False)
    in_training: bool = field(default=False, init=False)
    kind_of_run: KindOfRun | None = field(default=None, init=False)


class ModelCardCallback(TrainerCallback):
    r"""
    Collects the log of a training for its model card, without evaluations before and after training.

    Args:
        card_data ([`UniSRecModelCardData`]): Facts to extend.
    """

    def __init__(self, card_data: UniSRecModelCardData):
        self.card_data = card_data

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.card_data.log = list(state.log_history)
        self.card_data.resumed = state.global_step > 0
        self.card_data.in_training = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.card_data.in_training:
            self.card_data.log.append(state.log_history[-1])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.card_data.in_training = False


def write_model_card(
    folder: Path,
    card_data: UniSRecModelCardData,
    args: TrainingArguments,
    model: nn.Module,
    *,
    processor: UniSRecProcessor | None = None,
    text_encoder: PreTrainedModel | None = None,
    best_step: int | None = None,
    loaded_step: int | None = None,
    best_is_gone: bool = False,
    name: str | None = None,
    title: str | None = None,
    **metadata: Any,
) -> None:
    r"""
    Writes `README.md` into a checkpoint folder, and `curves.png` if matplotlib is installed.

    Args:
        folder (`Path`): The checkpoint folder.
        card_data ([`UniSRecModelCardData`]): Facts collected during training.
        args ([`TrainingArguments`]): Training arguments.
        model ([`UniSRecModel`] or `PeftModel`): The model.
        processor ([`UniSRecProcessor`], *optional*): Processor of the checkpoint; the example uses its catalogue.
        text_encoder ([`PreTrainedModel`], *optional*): Text encoder, if it is not part of `model`.
        best_step (`int`, *optional*): Step of the best model on validation.
        loaded_step (`int`, *optional*): Step of the checkpoint that the weights were loaded from.
        best_is_gone (`bool`, *optional*): Whether the checkpoint of the best model was missing at the end.
        name (`str`, *optional*): Folder or Hub id in the examples; defaults to the name of the folder.
        title (`str`, *optional*): Title; defaults to the last part of the name.
        **metadata: Fields of `ModelCardData`, such as `license`, that override those found here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or folder.absolute().name
    title = card_tables.one_line(title or name.split("/")[-1])
    rows = training_rows(card_data.log)
    has_adapters = not isinstance(model, UniSRecModel)
    is_finetuning = card_data.kind_of_run == "finetuning"
    has_text_encoder = text_encoder is not None or model.config.text_config is not None
    metadata = {"library_name": "peft" if has_adapters else "transformers"} | metadata
    text = load_template(TEMPLATE).render(
        metadata=_metadata(card_data, title, metadata, model.config).to_yaml(),
        card=card_data,
        title=title,
        args=args,
        config=model.config,
        processor=processor,
        base_model=_named(card_data.base_model),
        text_encoder=_named(card_data.text_encoder),
        encoder_training=card_tables.encoder_training(model),
        has_text_encoder=has_text_encoder,
        use=UseFacts.of_model(name, model.config, processor, has_text_encoder, has_adapters),
        is_pretraining=card_data.kind_of_run == "pretraining",
        is_finetuning=is_finetuning,
        teachers=[_named(teacher) for teacher in (args.teachers if is_finetuning else None) or ()],
        candidates=card_tables.candidates(card_data.kind_of_run, args, card_data.domains),
        similarity=card_tables.SIMILARITIES[model.config.similarity],
        parts=card_tables.parts_table(model, text_encoder),
        settings=card_tables.settings_table(args, model.config),
        rows=rows,
        shown_rows=thin_rows(rows, MOST_ROWS, best_step),
        best_row=next((row for row in rows if row.step == best_step), None),
        loaded_row=next((row for row in rows if row.step == loaded_step), None),
        best_is_gone=best_is_gone,
        curves=CURVES if _plot(card_data.log, best_step, folder / CURVES) else None,
        hardware=card_tables.hardware(args),
        versions={"Python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    )
    ModelCard(text).save(folder / "README.md")


def _metadata(
    card_data: UniSRecModelCardData, title: str, known: Mapping[str, Any], config: UniSRecConfig
) -> ModelCardData:
    """Builds the metadata of the card; `known` fields override those found here."""
    found = {
        "base_model": _hub_id(card_data.base_model) or (_hub_id(card_data.text_encoder) if config.item_text else None),
        "datasets": _hub_datasets(card_data.domains) or None,
        # No `pipeline_tag`: the Hub has none for recommendation, and the pipeline of another task could not run the model.
        "tags": [],
    } | {name: value for name, value in known.items() if value}
    found["tags"] = [*TAGS, *([found["tags"]] if isinstance(found["tags"], str) else found["tags"])]
    if card_data.test_metrics and len(card_data.domains) == 1:
        found |= {
            "model_name": title,
            "eval_results": _eval_results(card_data.domains[0], card_data.test_metrics),
        }
    return ModelCardData(**found)


def _eval_results(domain: Domain, metrics: Mapping[str, float]) -> list[EvalResult]:
    name, split = card_tables.one_line(domain.name), "test" if domain.cut is None else domain.cut.name
    return [
        EvalResult(
            task_type="sequential-recommendation",
            task_name="Sequential recommendation",
            dataset_type=re.sub(r"\W+", "-", name.lower()).strip("-") or "unnamed",
            dataset_name=name,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{card_tables.metric_name(metric.removesuffix(suffix))}, seen items {protocol}",
            metric_value=round(value, 6),
        )
        for protocol, suffix in card_tables.PROTOCOLS.items()
        for metric, value in metrics.items()
        if metric.endswith("_seen_masked") == bool(suffix)
    ]


def _hub_id(name: str | None) -> str | None:
    """Returns the Hub id that a model or dataset was loaded from, `None` for a local folder or a packaged checkpoint."""
    if name is None or name in RELEASED or Path(name).exists():
        return None
    name = PACKAGED_ENCODER if name in PACKAGED_ENCODER_NAMES else split_revision(name)[0]
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _hub_datasets(domains: Sequence[Domain]) -> list[str]:
    """Returns the Hub datasets among the files that `read_table` recorded."""
    names = [str(name) for domain in domains for name in domain.info.get("files", [])]
    files = (*ENDINGS, ".gz")
    matches = [DATASET.fullmatch(name) for name in names if "/" in name and not name.lower().endswith(files)]
    return list(dict.fromkeys(filter(None, (_hub_id(match["path"]) for match in matches if match))))


def _named(name: str | None) -> str | None:
    """Formats a model for a sentence: a link to the Hub, or the name of its folder."""
    if name is None:
        return None
    hub_id = _hub_id(name)
    return (
        card_tables.code(Path(name).absolute().name)
        if hub_id is None
        else f"[{hub_id}](https://huggingface.co/{hub_id})"
    )


def _plot(log: Sequence[Mapping[str, float]], best_step: int | None, file: Path) -> bool:
    try:
        return plot_run(log, best_step, file)
    except ImportError:  # matplotlib is an extra
        return False


__all__ = ["CURVES", "TEMPLATE", "KindOfRun", "ModelCardCallback", "UniSRecModelCardData", "write_model_card"]
