"""Training recipes for a shop, and their time budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .data import Domain, domain_split


# Recommendations leave out what the customer has bought. So does this metric, except for the target itself.
CHOICE = "ndcg@10_seen_masked"
LARGE_CATALOGUE = 20_000  # items from which the softmax of a step is sampled
SMALL_SHOP = 2_000  # training targets below which an ID embedding is not tried
LARGE_SHOP = 50_000  # training targets from which a new model learns more from the shop than pre-training brings
# The settings of the row "text + ID, from scratch, tuned" of docs/results_beauty_toys.md, but for the falling rate: see `Budget`.
LARGE_SHOP_OPTIONS = {"per_device_train_batch_size": 768, "num_negatives": 1024, "learning_rate": 2e-3}
LARGE_SHOP_CONFIG = {"hidden_dropout": 0.4, "attention_dropout": 0.0}


@dataclass(frozen=True)
class Recipe:
    """
    A training recipe.

    Args:
        name (`str`): Name in the report.
        setting (`str`): `"inductive"` or `"transductive"`.
        from_scratch (`bool`): Whether trained weights are left out.
        options (`dict`): Training arguments.
        model_config (`dict`): Fields of [`UniSRecConfig`] that differ from those of the checkpoint; only from scratch.
    """

    name: str
    setting: Literal["inductive", "transductive"]
    from_scratch: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    model_config: dict[str, Any] = field(default_factory=dict)


def recipes(domain: Domain, has_weights: bool) -> list[Recipe]:
    """
    Returns the recipes to try on a shop, the most promising first.

    Args:
        domain ([`Domain`]): The shop.
        has_weights (`bool`): Whether there are trained weights to start from.

    Returns:
        `list[Recipe]`: With the batch size that gives about 25 steps an epoch, from 64 to 2,048 targets, and a sampled
        softmax for large catalogues, or with the settings of large shops; none if no training history has two items.
    """
    train = domain_split(domain, "train")
    targets = int(np.maximum(np.diff(train.offsets) - 1, 0).sum())
    if targets == 0:
        return []
    batch = min(max(64, 1 << max(targets // 25, 1).bit_length() - 1), 2048)
    common: dict[str, Any] = {"per_device_train_batch_size": batch}
    if domain.num_items > LARGE_CATALOGUE:
        common["num_negatives"] = 2048
    if targets >= LARGE_SHOP:
        text_and_id = Recipe("text and ID", "transductive", True, LARGE_SHOP_OPTIONS, LARGE_SHOP_CONFIG)
        if not has_weights:
            return [text_and_id, Recipe("text only", "inductive", True, LARGE_SHOP_OPTIONS, LARGE_SHOP_CONFIG)]
        warm = LARGE_SHOP_OPTIONS | {"learning_rate": 1e-3, "interpolate": "1"}
        return [
            replace(text_and_id, name="text and ID, from scratch"),
            Recipe("text and ID", "transductive", False, warm),
            Recipe("text only", "inductive", False, warm),
        ]
    # Epochs are compared by the fine-tuned weights, so these are what is kept.
    everything = common | {"interpolate": "1"}
    if not has_weights:
        found = [Recipe("text only", "inductive", True, common), Recipe("text and ID", "transductive", True, common)]
    else:
        found = [
            Recipe("text only", "inductive", False, everything),
            Recipe("text and ID", "transductive", False, everything),
            Recipe(
                "text only, sequence encoder frozen", "inductive", False, common | {"freeze_sequence_encoder": True}
            ),
            Recipe("text only, from scratch", "inductive", True, common),
        ]
    if targets < SMALL_SHOP:  # few users: what is trained least comes first, and there is nothing to learn an ID from
        found = sorted(
            (each for each in found if each.setting == "inductive"), key=lambda each: "frozen" not in each.name
        )
    return found


class Budget(TrainerCallback):
    """Stops a training when its time is up, after a last evaluation, and reports its progress."""

    def __init__(self, name: str, deadline: float, end: float, say: Callable[[str], None]):
        self.name, self.deadline, self.end, self.say, self.is_over = name, deadline, end, say, False
        self._falls_from: float | None = None

    def go_on(self) -> None:
        """Lets a stopped training continue until the end, with a learning rate that falls to 0 by the clock."""
        self.deadline, self.is_over, self._falls_from = self.end, False, time.monotonic()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._falls_from is not None:
            left = (self.end - time.monotonic()) / max(self.end - self._falls_from, 1e-9)
            for group in kwargs["optimizer"].param_groups:  # the scheduler of Trainer sets it anew after each step
                group["lr"] *= min(max(left, 0.0), 1.0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_over and time.monotonic() > self.deadline:
            self.is_over = True
            control.should_evaluate = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.is_over:  # a checkpoint of a training that has stopped would not go on
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_over:  # the last step has been evaluated and saved
            control.should_evaluate = control.should_save = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict, **kwargs: Any
    ) -> None:
        left = max(self.end - time.monotonic(), 0)
        shown = f"{left / 60:.1f} minutes" if left > 90 else f"{left:.0f} seconds"
        # The last evaluation is in the middle of an epoch.
        self.say(
            f"{self.name}: epoch {round(state.epoch, 1):g}, validation NDCG@10 {metrics[f'eval_{CHOICE}']:.4f}, "
            f"at most {shown} left"
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scores = [line[f"eval_{CHOICE}"] for line in state.log_history if f"eval_{CHOICE}" in line]
        if self.is_over:
            reason = "its time is over"
        elif state.epoch >= args.num_train_epochs:
            reason = f"all {args.num_train_epochs:.0f} epochs are done"
        elif len(scores) > args.early_stopping_patience + scores.index(max(scores)):
            reason = f"no improvement for {args.early_stopping_patience} epochs"
        else:  # on SIGTERM
            return
        self.say(f"{self.name}: stopped, {reason}")


__all__ = ["CHOICE", "Budget", "Recipe", "recipes"]
