"""Training arguments: those of `transformers`, with the method's own and the defaults that suit it."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from ..evaluation.launch import check_launch
from .argument_rules import check_arguments, check_metric, check_setup
from .domain_sampling import parse_domain_sampling
from .interpolation import parse_interpolation
from .lora import parse_lora_parts


@dataclass
class UniSRecTrainingArguments(TrainingArguments):
    r"""
    What pre-training and transfer share. All arguments of `TrainingArguments` are there, with other defaults for some.

    `per_device_train_batch_size` counts *targets* (positions with a next item, the rows of the official code), since
    that is what a step costs and what gives in-batch negatives; windows of similar length are batched together.
    """

    per_device_train_batch_size: int = field(
        default=2048, metadata={"help": "Targets (positions with a next item) a step and process trains on."}
    )
    per_device_eval_batch_size: int = field(default=512, metadata={"help": "Users ranked at a time in a process."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of Adam."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Course of the learning rate."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Norm to clip gradients to; 0 does not clip."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to rank the validation targets."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept (the best one always is)."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    gradient_accumulation_steps: int = field(
        default=1,
        metadata={"help": "Batches a step sums up. It adds no negatives: each batch is contrasted with itself alone."},
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off: collators need all columns."})
    prefix_rows: bool = field(
        default=False,
        metadata={"help": "One row for each target, as in official code, instead of a loss at every position."},
    )
    train_text_encoder: bool = field(
        default=False,
        metadata={"help": "Train the text encoder too; the texts of each batch are encoded in its step."},
    )
    text_encoder_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the text encoder in training; by default a twentieth of the learning rate, and "
            "the learning rate itself for adapters."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "auto goes on from the last complete checkpoint, or starts if there is none; true must find one; or "
            "the folder of a checkpoint."
        },
    )
    card_license: str | None = field(
        default=None, metadata={"help": "Licence of the checkpoint, such as mit, for the head of its model card."}
    )

    def __post_init__(self):
        check_arguments(self)
        super().__post_init__()
        self.do_eval = (
            False  # which the parent derives, so that a copy with another `eval_strategy` would contradict it
        )
        check_launch(self.world_size)
        check_setup(self)
        if self.n_gpu > 1:  # the parent would split a batch by rows, and ours are not all rows of the same thing
            self._n_gpu = 1
        if self.device.type == "cpu":  # pinned memory is for copies to an accelerator
            self.dataloader_pin_memory = False


@dataclass
class UniSRecPretrainArguments(UniSRecTrainingArguments):
    r"""
    Arguments of multi-domain contrastive pre-training, [`UniSRecPretrainTrainer`]. Defaults are the paper's, except
    that each sequence draws its own kind of augmentation.
    """

    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over all domains."})
    domain_sampling: str = field(
        default="proportional",
        metadata={
            "help": "How domains share an epoch: proportional (every window once), uniform (as many targets of each "
            "domain), or a temperature T of at least 1 (shares by size ** (1 / T))."
        },
    )
    batch_domains: Literal["mixed", "one"] = field(
        default="mixed",
        metadata={
            "help": "Domains of a step: mixed, as in the paper, or one, so that all negatives are items of the same shop."
        },
    )
    num_negatives: int = field(
        default=0,
        metadata={
            "help": "With batch_domains one: items drawn uniformly from the catalogue of the domain in each step (by all "
            "processes together), negatives beside the items of the batch."
        },
    )
    zero_shot_domain: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a domain that is not trained on. Its validation users, instead of those of the domains "
            "trained on, choose the best checkpoint, which is what the run ends with."
        },
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "What the best model is best at; with zero_shot_domain ndcg@10 by default."},
    )
    load_best_model_at_end: bool | None = field(
        default=None,
        metadata={"help": "End with the best model, not the last; by default where there is a zero_shot_domain."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations without a better metric before training stops; 0 never stops. By default 10 with "
            "zero_shot_domain, and 0 without."
        },
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on counting evaluations without a better metric."}
    )
    sequence_loss_weight: float = field(
        default=1e-3,
        metadata={
            "help": "Weight (lambda) of the sequence-sequence loss beside the sequence-item loss; 0 leaves it out, and "
            "the views with it, which saves a third of a step."
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
        metadata={
            "help": "What becomes of pairs with the same target: left out, or a logit of 0 as in official code."
        },
    )
    item_drop_probability: float = field(
        default=0.9, metadata={"help": "Share of augmented views made by item drop; the others are made by word drop."}
    )
    item_drop_ratio: float = field(default=0.2, metadata={"help": "Share of items that item drop leaves out."})
    word_drop_ratio: float = field(default=0.15, metadata={"help": "Share of words that word drop leaves out."})
    word_drop_item_ratio: float = field(default=0.2, metadata={"help": "Share of items whose text word drop changes."})
    augmentation_draw: Literal["sequence", "batch"] = field(
        default="sequence",
        metadata={"help": "Draw the kind of view for each sequence, or once for a batch as in official code."},
    )
    cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Targets whose activations are held at a time. The loss is that of the whole batch, which may then "
            "be many times what memory holds (more negatives for each target), at about one more forward pass a step. "
            "By default the whole batch."
        },
    )

    def __post_init__(self):
        zero_shot = self.zero_shot_domain is not None
        if zero_shot and self.eval_strategy == "no":
            raise ValueError("--zero_shot_domain is evaluated on: set --eval_strategy to epoch or steps.")
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
                "--cache_chunk_size does not go with FSDP: processes have different numbers of chunks, and FSDP exchanges "
                "weights in each; take multi_gpu.yaml instead of fsdp2.yaml."
            )
        parse_domain_sampling(self.domain_sampling)

    def _check_negatives(self) -> None:
        for wrong, advice in (
            (self.batch_domains != "one", "draws from the catalogue of one domain: add --batch_domains one"),
            (self.train_text_encoder, "draws among ready text vectors: leave --train_text_encoder out"),
            (self.cache_chunk_size is not None, "does not go with --cache_chunk_size: leave one of them out"),
        ):
            if self.num_negatives > 0 and wrong:
                raise ValueError(f"--num_negatives {advice}.")


@dataclass
class UniSRecFinetuneArguments(UniSRecTrainingArguments):
    r"""
    Arguments of transfer to one domain, [`UniSRecFinetuneTrainer`]. Defaults are the paper's: the sequence encoder is
    frozen, and training stops when `eval_ndcg@10` has not improved for ten epochs.
    """

    num_train_epochs: float = field(default=200.0, metadata={"help": "Most passes; early stopping ends before."})
    freeze_sequence_encoder: bool = field(
        default=True, metadata={"help": "Keep positions and layers of the sequence encoder as they are."}
    )
    num_negatives: int | None = field(
        default=None,
        metadata={
            "help": "Sampled softmax: items drawn from the catalogue in each step (by all processes together) as "
            "candidates beside the items of the batch. By default all items are candidates, as in the paper. Pays for "
            "catalogues of many times the items of a batch."
        },
    )
    hold_out: bool = field(
        default=True,
        metadata={
            "help": "Keep the last two interactions of each user for validation and test. false trains on all of them, for "
            "a model to serve, and measures nothing; it takes --num_train_epochs."
        },
    )
    teachers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Checkpoints fine-tuned on this domain, such as those of other seeds. What their scores say of the "
            "candidates, on average, is learned beside the next item (knowledge distillation)."
        },
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "Share of the teachers in the target; the next item has the rest."}
    )
    min_id_interactions: int = field(
        default=0,
        metadata={
            "help": "Transductive: items with fewer interactions in training have no ID embedding and go by their text, so "
            "that training does not push them away from histories they were seldom in."
        },
    )
    sparse_item_embedding: bool = field(
        default=False,
        metadata={
            "help": "With num_negatives: a step reads and updates the ID embedding of its own candidates alone, as "
            "torch.optim.SparseAdam, whatever the size of the catalogue."
        },
    )
    interpolate: str | None = field(
        default=None,
        metadata={
            "help": "After training, weights between the pre-trained and the fine-tuned ones: the share of the latter, from 0 "
            "to 1, or auto, which takes the best of six shares on the validation users by metric_for_best_model. ID "
            "embeddings are scaled by the share. Keeps more of the pre-training where few users are trained on."
        },
    )
    lora: str | None = field(
        default=None,
        metadata={
            "help": "Parts that get low-rank adapters instead of being trained or frozen: text, sequence or "
            "text,sequence. The output folder holds adapters, as peft saves them."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of these adapters."})
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Evaluations without a better metric before training stops; 0 never stops."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model, not the last."})
    metric_for_best_model: str | None = field(default="ndcg@10", metadata={"help": "What the best model is best at."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on counting evaluations without a better metric."}
    )

    def __post_init__(self):
        if not self.hold_out:  # no validation, so no best model
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()
        if not self.hold_out and self.max_steps <= 0 and self.num_train_epochs == type(self).num_train_epochs:
            raise ValueError(
                "--hold_out false leaves no validation to stop at: set --num_train_epochs, such as to the best epoch of a "
                "run that holds out."
            )
        check_metric(self)
        if self.num_negatives is not None and self.trains_on_texts:
            raise ValueError(
                "--num_negatives draws among ready text vectors: leave it out where the text encoder is trained, there "
                "the items of the batch are the candidates."
            )
        if self.interpolate is not None:
            self._check_interpolation()
        if self.sparse_item_embedding:
            self._check_sparse_item_embedding()
        if "text" in self.lora_parts and self.train_text_encoder:
            raise ValueError(
                "--lora text and --train_text_encoder exclude each other: choose adapters or all weights."
            )

    def _check_interpolation(self) -> None:
        share = parse_interpolation(self.interpolate)
        for wrong, advice in (
            (share is None and not self.hold_out, "auto chooses on validation users: give a share, or hold out"),
            (self.lora is not None, "is for weights, not for adapters: leave --lora out"),
            (parse_flag_from_env("ACCELERATE_USE_FSDP"), "does not go with FSDP: take multi_gpu.yaml"),
        ):
            if wrong:
                raise ValueError(f"--interpolate {advice}.")

    def _check_sparse_item_embedding(self) -> None:
        for wrong, advice in (
            (self.num_negatives is None, "needs --num_negatives: the full softmax sees all rows in each step"),
            (
                self.optim not in ("adamw_torch", "adamw_torch_fused"),
                f"does not go with --optim {self.optim.value}: leave it out",
            ),
            (self.weight_decay > 0, "has no weight decay: leave --weight_decay out"),
            (self.max_grad_norm > 0, "does not go with clipped gradients: leave --max_grad_norm out"),
            (self.lora is not None, "does not go with --lora: leave one of them out"),
            (parse_flag_from_env("ACCELERATE_USE_FSDP"), "does not go with FSDP: take multi_gpu.yaml"),
        ):
            if wrong:
                raise ValueError(f"--sparse_item_embedding {advice}.")

    @property
    def trains_on_texts(self) -> bool:
        """Whether texts are encoded in the step, because weights of the text encoder are trained."""
        return self.train_text_encoder or "text" in self.lora_parts

    @property
    def lora_parts(self) -> list[str]:
        """The parts of the model that `lora` names; raises `ValueError` for another one."""
        return [] if self.lora is None else parse_lora_parts(self.lora)


def encoding_options(args: UniSRecTrainingArguments) -> dict[str, Any]:
    """What [`domain_features`] is to know of a run: seed, device, type of the products, progress bar, order of processes."""
    return {
        "seed": args.seed,
        "device": args.device,
        "dtype": torch.bfloat16 if args.bf16 else None,
        "progress": not args.disable_tqdm,
        # First of all machines, since they share the folder of the domain.
        "main_process_first": args.main_process_first(local=False, desc="encoding texts"),
    }


__all__ = ["UniSRecFinetuneArguments", "UniSRecPretrainArguments", "UniSRecTrainingArguments"]
