"""Tables and facts of a model card in Markdown, from arguments, weights, log and results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import timedelta
from math import sqrt
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from ..configuration import UniSRecConfig
from ..data import Domain
from ..data.markdown import code, escape, one_line
from .run_results import RunResults
from .training_log import TrainingRow, loss_name


KindOfRun = Literal["pretraining", "finetuning"]
Table = list[list[str]]  # the first row is the header

PROTOCOLS = {"kept": "", "masked": "_seen_masked"}
SIMILARITIES = {"cosine": "cosine similarity", "dot": "inner product"}
METRIC_NAMES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "map": "MAP", "hit": "Hit rate"}
PARTS = {
    "text_encoder": "text encoder",
    "adaptor": "adaptor",
    "sequence_encoder": "sequence encoder",
    "item_embedding": "item-ID embedding",
}
_TEXT_SPACES = {
    None: "",
    "catalogue": ", in the text space of each catalogue",
    "own": ", in the text space of this catalogue",
}
# Fields of the configuration that have no effect on a model without texts.
TEXT_FIELDS = (
    "text_embedding_size",
    "text_pooling",
    "text_space",
    "num_experts",
    "adaptor_dropout",
    "whitening_bias",
    "router_noise",
)
# Arguments that do not influence the result of a run, such as paths, logging and hardware.
NO_HYPER_PARAMETERS = re.compile(
    "output_dir|run_name|project|trackio_|report_to|disable_tqdm|log|save_|hub_|push_to_hub|card_|do_|debug|use_cpu"
    "|local_rank|ddp_|fsdp|deepspeed|parallelism|accelerator|dataloader_(?!drop_last)|torch_empty_cache"
    "|eval_(?!strategy|steps|delay)|per_device_eval|batch_eval|include_|prediction_loss|label_names|length_column"
    "|skip_memory|enable_jit|resume_|restore_|ignore_data|teachers|zero_shot_domain|greater_is|remove_unused|gradient_checkpointing"
)


def to_markdown(table: Table) -> str:
    """Formats a table as Markdown. Columns of numbers are right-aligned."""
    header, *rows = [[one_line(cell).replace("|", r"\|") for cell in row] for row in table]
    columns = zip(*rows, strict=True)
    lines = ["---:" if all(re.fullmatch(r"[-+*\d.,/ ]*", cell) for cell in column) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, lines, *rows))


def join_names(names: Sequence[str]) -> str:
    """Joins names: `["a", "b", "c"]` becomes `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def number(value: float) -> str:
    """Formats a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def setting(config: UniSRecConfig) -> str:
    """Returns how a model represents items."""
    if not config.item_text:
        return "ID only (no text)"
    return "inductive (text only)" if config.num_items is None else "transductive (text and item ID)"


def encoder_training(model: nn.Module) -> str:
    """Returns how the text encoder is trained: `"frozen"`, `"trained"` or `"adapters"`."""
    trained = [name for name, weight in model.named_parameters() if "text_encoder." in name and weight.requires_grad]
    if not trained:
        return "frozen"
    return "adapters" if all("lora_" in name for name in trained) else "trained"


def candidates(kind_of_run: KindOfRun | None, args: TrainingArguments, domains: Sequence[Domain]) -> str:
    """Describes the candidates that each target is contrasted with in training."""
    if kind_of_run == "pretraining":
        of_step = "the items of its step" + (", which are of one domain" if args.batch_domains == "one" else "")
        drawn = f", and {args.num_negatives:,} drawn from the catalogue of that domain" if args.num_negatives else ""
        return of_step + drawn
    if kind_of_run != "finetuning" or args.trains_on_texts:
        return "the items of its step"
    if args.num_negatives is not None:
        return f"the items of its step and {args.num_negatives:,} drawn from the catalogue (sampled softmax)"
    return f"all {domains[0].num_items:,} items" if len(domains) == 1 else "all items"


def parts_table(model: nn.Module, text_encoder: PreTrainedModel | None) -> Table:
    """Tabulates architecture, number of weights and number of trained weights of each part of a model."""
    config = model.config
    weights = dict(model.named_parameters())
    frozen = (
        {}
        if text_encoder is None
        else {f"text_encoder.{name}": each for name, each in text_encoder.named_parameters()}
    )
    encoder_config = config.text_config if text_encoder is None else text_encoder.config
    forms = {
        "text_encoder": encoder_config
        and f"{code(encoder_config.model_type)}, vectors of {encoder_config.hidden_size} numbers, {config.text_pooling} pooling",
        "adaptor": _count(config.num_experts, "whitening expert") + _TEXT_SPACES[config.text_space],
        "sequence_encoder": f"{_count(config.num_hidden_layers, 'layer')}, {_count(config.num_attention_heads, 'head')}, vectors of "
        f"{config.hidden_size} numbers, histories of up to {config.max_position_embeddings} items",
        "item_embedding": f"{config.num_items} items",
    }
    table, sums = [["part", "form", "weights", "trained"]], [0, 0]
    for part, form in forms.items():
        # `original_module` is the frozen original that peft keeps of a fully trained part.
        own = [each for name, each in weights.items() if f"{part}." in name and "original_module" not in name]
        beside = [each for name, each in frozen.items() if f"{part}." in name]
        if own or beside:
            total = sum(each.numel() for each in own + beside)
            trained = sum(each.numel() for each in own if each.requires_grad)
            table.append([PARTS[part], form, f"{total:,}", f"{trained:,}"])
            sums = [sums[0] + total, sums[1] + trained]
    return [*table, ["all", "", *(f"{each:,}" for each in sums)]]


def domains_table(domains: Sequence[Domain]) -> Table:
    """Tabulates counts, source and content hash of the training domains."""
    header = ["domain", "users", "items", "interactions", "source", "content hash"]
    table = [
        [
            escape(domain.name),
            *(f"{count:,}" for count in domain.counts.values()),
            escape(_without_folder(str(domain.info.get("source", "")))),
            code(domain.content_hash[:12]),
        ]
        for domain in domains
    ]
    return _without_empty_columns([header, *table])


def results_table(metrics: Mapping[str, float], compared: RunResults | None) -> Table:
    """Tabulates the test metrics of this run, and of another one for comparison, for both protocols."""
    names = [name for name in metrics if not name.endswith("_seen_masked")]
    runs = {"this model": metrics}
    if compared is not None:
        start = "from scratch" if compared.from_scratch else "pre-trained"
        runs[f"{code(compared.name)} ({compared.setting}, {start}, seed {compared.seed})"] = compared.metrics
    table = [["items of the history", "model", *map(metric_name, names)]]
    for protocol, suffix in PROTOCOLS.items():
        for run, values in runs.items():
            cells = [values.get(name + suffix) for name in names]
            table.append([protocol, run, *("" if cell is None else f"{cell:.4f}" for cell in cells)])
    return table


def training_table(rows: Sequence[TrainingRow], best_step: int | None) -> Table:
    """Tabulates losses and validation metrics with seen items kept / masked; the best row is bold."""
    losses = list(dict.fromkeys(name for row in rows for name in row.losses))
    domains = list(dict.fromkeys(domain for row in rows for domain in row.metrics))
    metrics = ["ndcg@10", "recall@10"] if len(domains) == 1 else ["ndcg@10"]
    header = ["epoch", "step", *map(loss_name, losses)]
    header += [escape(domain) if len(domains) > 1 else metric_name(name) for domain in domains for name in metrics]
    table = [header]
    for row in rows:
        cells = [number(row.epoch), f"{row.step:,}"]
        cells += [f"{row.losses[name]:.3f}" if name in row.losses else "" for name in losses]
        for domain in domains:
            found = row.metrics.get(domain, {})
            for name in metrics:
                values = [found[name + suffix] for suffix in PROTOCOLS.values() if name + suffix in found]
                cells.append(" / ".join(f"{value:.4f}" for value in values))
        table.append([f"**{cell}**" if cell and row.step == best_step else cell for cell in cells])
    return table


def settings_table(args: TrainingArguments, config: UniSRecConfig) -> Table:
    """Tabulates training arguments and fields of the configuration that differ from their defaults."""
    table = [["setting", "value", "default"]]
    values = args.to_dict()
    for each in fields(args):
        default = (
            each.default_factory() if each.default is MISSING and each.default_factory is not MISSING else each.default
        )
        value = values.get(each.name)
        # None, False and the empty list are equivalent.
        if not NO_HYPER_PARAMETERS.match(each.name) and value != default and (value or default):
            table.append([code(each.name), code(value), code(default)])
    defaults = UniSRecConfig()
    for name in UniSRecConfig.__annotations__:
        value, default = getattr(config, name), getattr(defaults, name)
        used = config.item_text or name not in TEXT_FIELDS
        if name not in ("text_config", "training_data", "text_neighbours") and used and value != default:
            table.append([code(name), code(value), code(default)])
    return table


def metric_name(name: str) -> str:
    """Formats the name of a metric: `ndcg@10` becomes `NDCG@10`."""
    kind, _, rest = name.partition("@")
    return f"{METRIC_NAMES.get(kind, kind)}@{rest}"


def standard_error(share: float, num_users: int) -> float:
    """Returns the standard error of a proportion, such as recall, over `num_users` users."""
    return sqrt(share * (1 - share) / num_users)


def hardware(args: TrainingArguments) -> str:
    """Describes the devices of a run."""
    device = args.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(args.device)
    elif device == "cpu":
        threads = torch.get_num_threads()
        device = f"CPU with {threads} {'thread' if threads == 1 else 'threads'}"
    return device if args.world_size == 1 else f"{args.world_size} x {device}"


def duration(log: Sequence[Mapping[str, float]]) -> str | None:
    """Returns the training time as `h:mm:ss`, or `None` if it is not in the log."""
    seconds = [entry["train_runtime"] for entry in log if "train_runtime" in entry]
    return str(timedelta(seconds=round(seconds[-1]))) if seconds else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _without_folder(source: str) -> str:
    """Replaces an absolute path by its last part, because model cards are public."""
    is_path = PurePosixPath(source).is_absolute() or PureWindowsPath(source).is_absolute()
    return PureWindowsPath(source).name if is_path else source  # splits at both kinds of slashes


def _without_empty_columns(table: Table) -> Table:
    kept = [place for place, cells in enumerate(zip(*table[1:], strict=True)) if any(cells)]
    return [[row[place] for place in kept] for row in table]


__all__ = [
    "code",
    "domains_table",
    "duration",
    "escape",
    "hardware",
    "join_names",
    "metric_name",
    "number",
    "one_line",
    "parts_table",
    "results_table",
    "setting",
    "settings_table",
    "standard_error",
    "to_markdown",
    "training_table",
]
