"""Training arguments: those of `transformers`, some with other defaults, and those of UniSRec."""

from dataclasses import dataclass, field
from typing import Any, Literal

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from ..evaluation.launch import check_launch
from ..modeling_unisrec.adapters import parse_lora_parts
from ..modeling_unisrec.text_neighbours import SHARE
from .argument_rules import check_arguments, check_metric, check_setup
from .batches.samplers import parse_domain_sampling
from .ensemble import SMALL_DOMAIN, SMALL_DOMAIN_SHARE, TRANSFER_DROPOUT, parse_interpolation


RANKS = "Share of text neighbours (see UniSRecConfig) by which the checkpoint ranks; "


@dataclass
class UniSRecTrainingArguments(TrainingArguments):
    r"""
    Arguments shared by pre-training and transfer: all of `TrainingArguments`, some with other defaults, and our own.

    `per_device_train_batch_size` counts *targets* (positions with a next item, the rows of the official code), which
    determine the cost of a step and the in-batch negatives; windows of similar length are batched together.
    """

    per_device_train_batch_size: int = field(
        default=2048, metadata={"help": "Targets (positions with a next item) per step and process."}
    )
    per_device_eval_batch_size: int = field(default=512, metadata={"help": "Users ranked per batch and process."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of Adam."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Maximum gradient norm; 0 disables clipping."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to rank the validation targets."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Checkpoints to keep, always with the best one."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log entries."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Batches accumulated per step. This adds no negatives: each batch has its own."}
    )
    # The parent's default depends on the verbosity of transformers, which the command line lowers.
    disable_tqdm: bool = field(default=False, metadata={"help": "Print log lines instead of progress bars."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinite losses in the log."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: collators need all columns."})
    prefix_rows: bool = field(
        default=False,
        metadata={"help": "Train on one row per target, as the official code does, not on all positions at once."},
    )
    static_batches: bool | None = field(
        default=None,
        metadata={
            "help": "Pack several windows into a row, in batches of a few fixed shapes, so that a single GPU replays recorded "
            "steps (CUDA graphs), and --torch_compile compiles a few times only. Defaults to true with --torch_compile, "
            "unless texts are encoded in every step."
        },
    )
    train_text_encoder: bool = field(
        default=False,
        metadata={"help": "Also train the text encoder; the texts of each batch are then encoded in every step."},
    )
    text_encoder_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of a trained text encoder. Defaults to a twentieth of the learning rate, and to the "
            "learning rate itself for adapters."
        },
    )
    text_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={
            "help": "Precision in which a frozen text encoder encodes the catalogue: float32, bfloat16, or auto, which is "
            "bfloat16 with bf16 and on GPUs, and float32 elsewhere."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to resume from: auto (the last complete one, or a new run if there is none), true (the "
            "last one, which must exist), or a checkpoint folder."
        },
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "When a run is resumed, continue counting the evaluations without improvement."},
    )
    card_license: str | None = field(
        default=None, metadata={"help": "Licence of the checkpoint for its model card, such as mit."}
    )

    def __post_init__(self):
        check_arguments(self)
        super().__post_init__()
        self.do_eval = False  # the parent sets it from `eval_strategy`, and a copy may change that
        check_launch(self.world_size)
        check_setup(self)
        if self.n_gpu > 1:  # the parent would split a batch by rows, but those of our tensors do not correspond
            self._n_gpu = 1
        if self.text_dtype != "auto" and self.trains_on_texts:
            raise ValueError("--text_dtype applies to a frozen text encoder: leave it out to train the encoder.")
        if self.device.type == "cpu":  # pinned memory only speeds up copies to an accelerator
            self.dataloader_pin_memory = False
        if (reason := self._against_static_batches()) and self.static_batches:
            raise ValueError(f"--static_batches cannot be combined with {reason}: leave one of them out.")
        if self.static_batches is None:
            self.static_batches = reason is None and self.torch_compile

    @property
    def trains_on_texts(self) -> bool:
        """Returns whether texts are encoded in every step, because weights of the text encoder are trained."""
        return self.train_text_encoder

    def _against_static_batches(self) -> str | None:
        """Returns the option that makes the sizes of a step depend on its content."""
        if self.trains_on_texts:
            return "a text encoder in training"
        return "--sparse_item_embedding" if getattr(self, "sparse_item_embedding", None) else None


@dataclass
class UniSRecPretrainArguments(UniSRecTrainingArguments):
    r"""
    Arguments of multi-domain contrastive pre-training, [`UniSRecPretrainTrainer`]. The defaults are those of the paper,
    except that the kind of augmentation is drawn for each sequence.
    """

    num_train_epochs: float = field(default=10.0, metadata={"help": "Number of passes over all domains."})
    domain_sampling: str = field(
        default="proportional",
        metadata={
            "help": "Shares of the domains in an epoch: proportional (every window once), uniform (equally many targets "
            "of each domain), or a temperature T of at least 1 (shares proportional to size ** (1 / T))."
        },
    )
    batch_domains: Literal["mixed", "one"] = field(
        default="mixed",
        metadata={"help": "Domains in a step: mixed, as in the paper, or one, with negatives from one shop only."},
    )
    num_negatives: int = field(
        default=0,
        metadata={
            "help": "With batch_domains one: number of additional negatives per step (over all processes), drawn "
            "uniformly from the catalogue of the domain."
        },
    )
    zero_shot_domain: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a domain that is not trained on. Its validation users, instead of those of the training "
            "domains, select the best checkpoint, which is the result of the run."
        },
    )
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "Metric that selects the best model; ndcg@10 with zero_shot_domain."}
    )
    load_best_model_at_end: bool | None = field(
        default=None, metadata={"help": "Load the best model at the end. Defaults to true with zero_shot_domain."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Number of evaluations without improvement before training stops; 0 disables early stopping. "
            "Defaults to 10 with zero_shot_domain, and to 0 without."
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Temperature of the losses. Defaults to that of the model, kept for transfer."}
    )
    sequence_loss_weight: float = field(
        default=1e-3,
        metadata={
            "help": "Weight (lambda) of the sequence-sequence loss relative to the sequence-item loss; 0 disables it "
            "and the augmented views, which saves a third of the time of a step."
        },
    )
    sequence_negatives: Literal["augmented", "original"] = field(
        default="augmented",
        metadata={
            "help": "Negatives of the sequence-sequence loss: augmented views of the other sequences (official code) "
            "or the original sequences (the formula as printed in the paper)."
        },
    )
    duplicate_mask: Literal["exclude", "official"] = field(
        default="exclude",
        metadata={"help": "Pairs with the same target: exclude them, or set their logit to 0 (official code)."},
    )
    item_drop_probability: float = field(
        default=0.9, metadata={"help": "Share of views augmented by item drop; the others use word drop."}
    )
    item_drop_ratio: float = field(default=0.2, metadata={"help": "Share of items dropped by item drop."})
    word_drop_ratio: float = field(default=0.15, metadata={"help": "Share of words dropped by word drop."})
    word_drop_item_ratio: float = field(default=0.2, metadata={"help": "Share of items whose text word drop changes."})
    augmentation_draw: Literal["sequence", "batch"] = field(
        default="sequence",
        metadata={"help": "Draw the kind of view for each sequence, or for each batch as in the official code."},
    )
    text_neighbours: float = field(default=SHARE, metadata={"help": f"{RANKS}validation ranks without."})
    cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of targets whose activations are in memory at a time. The loss is still that of the whole "
            "batch, which may be much larger than memory allows otherwise (more negatives per target), at the cost of "
            "one more forward pass per step. Defaults to the whole batch."
        },
    )

    def __post_init__(self):
        zero_shot = self.zero_shot_domain is not None
        if zero_shot and self.eval_strategy == "no":
            raise ValueError("--zero_shot_domain needs evaluations: set --eval_strategy to epoch or steps.")
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = zero_shot
        if self.metric_for_best_model is None and zero_shot:
            self.metric_for_best_model = "ndcg@10"
        if self.early_stopping_patience is None:
            self.early_stopping_patience = 10 if zero_shot else 0
        super().__post_init__()
        if self.early_stopping_patience and not (self.load_best_model_at_end and self.metric_for_best_model):
            raise ValueError(
                "--early_stopping_patience needs a metric to stop by: name a --zero_shot_domain, or set "
                "--load_best_model_at_end true and --metric_for_best_model."
            )
        self._check_negatives()
        if self.cache_chunk_size is not None and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            raise ValueError(
                "--cache_chunk_size cannot be used with FSDP: the number of chunks differs between processes, but FSDP "
                "exchanges weights in every chunk; launch with multi_gpu.yaml instead of fsdp2.yaml."
            )
        parse_domain_sampling(self.domain_sampling)

    def _check_negatives(self) -> None:
        for wrong, advice in (
            (self.batch_domains != "one", "draws from the catalogue of a single domain: add --batch_domains one"),
            (self.train_text_encoder, "needs fixed text vectors: leave --train_text_encoder out"),
            (self.cache_chunk_size is not None, "cannot be combined with --cache_chunk_size: leave one of them out"),
        ):
            if self.num_negatives > 0 and wrong:
                raise ValueError(f"--num_negatives {advice}.")


@dataclass
class UniSRecFinetuneArguments(UniSRecTrainingArguments):
    r"""
    Arguments of transfer to one domain, [`UniSRecFinetuneTrainer`]. The defaults are those of the paper, except that the
    sequence encoder is trained, too: training stops when `eval_ndcg@10` has not improved for ten epochs.
    """

    num_train_epochs: float = field(
        default=200.0, metadata={"help": "Maximum number of epochs; early stopping may end earlier."}
    )
    freeze_sequence_encoder: bool = field(
        default=False,
        metadata={"help": "Freeze the positions and layers of the sequence encoder, as in the paper."},
    )
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout of hidden states and attention weights in training. Defaults to that of the checkpoint, but to "
            f"{TRANSFER_DROPOUT:g} where its sequence encoder is trained on, unless one of them is 0."
        },
    )
    num_negatives: int | None = field(
        default=None,
        metadata={
            "help": "Sampled softmax: number of items drawn from the catalogue per step (over all processes) as "
            "candidates in addition to the items of the batch. By default all items are candidates, as in the paper. "
            "Useful for catalogues much larger than a batch."
        },
    )
    hold_out: bool = field(
        default=True,
        metadata={
            "help": "Hold out the last two interactions of each user for validation and test. false trains on all of them, "
            "for a model to serve, without evaluation; it requires --num_train_epochs."
        },
    )
    teachers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Checkpoints fine-tuned on this domain, for example with other seeds. Their mean scores of the "
            "candidates become part of the training target (knowledge distillation)."
        },
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "Weight of the teachers in the target; the next item has the remaining weight."}
    )
    min_id_interactions: int = field(
        default=0,
        metadata={
            "help": "Transductive: represent items with fewer training interactions by their text alone, without ID "
            "embedding, so that training does not push rare items away from all histories."
        },
    )
    sparse_item_embedding: bool = field(
        default=False,
        metadata={
            "help": "With num_negatives: read and update only the ID embeddings of the candidates of a step, as "
            "torch.optim.SparseAdam does, so that the cost does not depend on the catalogue size."
        },
    )
    interpolate: str | None = field(
        default=None,
        metadata={
            "help": "Interpolate between the pre-trained and the fine-tuned weights after training: the share of the latter, "
            "from 0 to 1, or auto, which selects the best of six shares on the validation users by metric_for_best_model. ID "
            "embeddings are scaled by the share. Preserves more of the pre-training if there are few users. Defaults to "
            f"{SMALL_DOMAIN_SHARE} for domains of fewer than {SMALL_DOMAIN:,} interactions if the sequence encoder is trained."
        },
    )
    text_neighbours: float | None = field(
        default=None, metadata={"help": f"{RANKS}by default it is chosen on the validation users."}
    )
    lora: str | None = field(
        default=None,
        metadata={
            "help": "Parts adapted by low-rank adapters (LoRA): text, sequence or text,sequence. The output is a standard "
            "PEFT adapter."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the LoRA adapters."})
    early_stopping_patience: int = field(
        default=10,
        metadata={"help": "Evaluations without improvement before training stops; 0 disables early stopping."},
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Load the best model at the end."})
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "Metric that selects the best model."}
    )

    def __post_init__(self):
        if not self.hold_out:  # no validation, so no best model
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()
        if not self.hold_out and self.max_steps <= 0 and self.num_train_epochs == type(self).num_train_epochs:
            raise ValueError(
                "--hold_out false leaves no validation users for early stopping: set --num_train_epochs, for example to "
                "the best epoch of a run that holds out."
            )
        check_metric(self)
        if self.num_negatives is not None and self.trains_on_texts:
            raise ValueError(
                "--num_negatives needs fixed text vectors: leave it out when the text encoder is trained; the candidates "
                "are then the items of the batch."
            )
        if self.interpolate is not None:
            self._check_interpolation()
        if self.sparse_item_embedding:
            self._check_sparse_item_embedding()
        if "text" in self.lora_parts and self.train_text_encoder:
            raise ValueError("--lora text and --train_text_encoder exclude each other: take adapters or all weights.")

    def _check_interpolation(self) -> None:
        share = parse_interpolation(self.interpolate)
        for wrong, advice in (
            (
                share is None and not self.hold_out,
                "auto needs validation users: give a share, or leave --hold_out false out",
            ),
            (self.lora is not None, "interpolates full weights, not adapters: leave --lora out"),
            (parse_flag_from_env("ACCELERATE_USE_FSDP"), "cannot be used with FSDP: launch with multi_gpu.yaml"),
        ):
            if wrong:
                raise ValueError(f"--interpolate {advice}.")

    def _check_sparse_item_embedding(self) -> None:
        for wrong, advice in (
            (self.num_negatives is None, "needs --num_negatives: the full softmax updates all rows in every step"),
            (
                self.optim not in ("adamw_torch", "adamw_torch_fused"),
                f"cannot be combined with --optim {self.optim.value}: leave it out",
            ),
            (self.weight_decay > 0, "does not support weight decay: leave --weight_decay out"),
            (self.max_grad_norm > 0, "cannot be combined with gradient clipping: leave --max_grad_norm out"),
            (self.lora is not None, "cannot be combined with --lora: leave one of them out"),
            (parse_flag_from_env("ACCELERATE_USE_FSDP"), "cannot be used with FSDP: launch with multi_gpu.yaml"),
        ):
            if wrong:
                raise ValueError(f"--sparse_item_embedding {advice}.")

    @property
    def trains_on_texts(self) -> bool:
        """Returns whether texts are encoded in every step, because weights of the text encoder are trained."""
        return self.train_text_encoder or "text" in self.lora_parts

    @property
    def lora_parts(self) -> list[str]:
        """Returns the parts of the model named in `lora`. Raises `ValueError` for an unknown part."""
        return [] if self.lora is None else parse_lora_parts(self.lora)


def check_kind(args: Any, kind: type[UniSRecTrainingArguments]) -> None:
    """Raises `TypeError` if the arguments of a training are not of this class."""
    if not isinstance(args, kind):
        raise TypeError(f"args is a {type(args).__name__}, expected {kind.__name__}(output_dir, ...)")


__all__ = ["UniSRecFinetuneArguments", "UniSRecPretrainArguments", "UniSRecTrainingArguments"]
