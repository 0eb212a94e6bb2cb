"""The training of an update: it starts from the weights of a checkpoint and stays close to them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback

from .data import Split
from .evaluation.ranking import RankingDataset
from .modeling_unisrec import ItemCatalogue, UniSRecModel
from .modeling_unisrec.item_catalogue import FormerItem
from .recipes import CHOICE, LARGE_CATALOGUE, Budget
from .recommender import Recommender
from .recommender.vectors import VectorEncoder
from .trainer import UniSRecFinetuneArguments, UniSRecFinetuneTrainer
from .trainer.batches.datasets import WindowDataset
from .trainer.ensemble import SHARES, WeightInterpolator, choose_text_neighbours
from .update_data import ShopHistory, training_histories
from .words import plural


REPLAY = 1.0  # targets of other users for each target of users with new interactions
MOST_EPOCHS, PATIENCE = 5, 1
LEARNING_RATE = 1e-3
EPOCHS, SHARE = 2, 0.6  # and share of the new weights, where nothing can be validated
COMPARED_USERS, TOP_K = 1000, 10


@dataclass(frozen=True)
class WarmStart:
    """
    Effects of the training of an update.

    Args:
        share (`float`): Share of the new weights in the average with the old ones; 0 if nothing was learnt.
        before, after (`float`, *optional*): NDCG@10, seen items masked, of the validation users; `None` without any.
        num_validated (`int`): Validation users: their last new interaction was set aside.
        overlap (`float`, *optional*):
            Mean share of the ten recommendations before that are among those after, of users without new interactions;
            `None` if there are none.
        num_compared (`int`): Number of these users.
    """

    share: float
    before: float | None
    after: float | None
    num_validated: int
    overlap: float | None
    num_compared: int

    def sentences(self) -> list[str]:
        """Returns the sentences for a report."""
        found = [f"share of the new weights {self.share:g}" if self.share else "weights unchanged"]
        if self.before is not None:
            found.append(
                f"NDCG@10 on {plural(self.num_validated, 'new interaction')} set aside {self.before:.4f} -> {self.after:.4f}"
            )
        if self.overlap is not None:
            found.append(
                f"{self.overlap:.0%} of the ten recommendations stay for {plural(self.num_compared, 'user')} without new interactions"
            )
        return found


def warm_start(
    recommender: Recommender,
    history: ShopHistory,
    work: Path,
    seconds: float,
    seed: int,
    use_cpu: bool,
    say: Callable[[str], None],
) -> tuple[WarmStart, Recommender]:
    r"""
    Trains the model of a recommender briefly.

    Args:
        recommender ([`Recommender`]): The checkpoint, with the catalogue of now. Its model is trained in place.
        history ([`ShopHistory`]): Histories of this catalogue.
        work (`Path`): Temporary folder.
        seconds (`float`): Most seconds for the training.
        seed (`int`): Random seed.
        use_cpu (`bool`): Do not use an accelerator.
        say (`Callable[[str], None]`): Receives lines that tell what is done.

    Returns:
        `tuple[WarmStart, Recommender]`: What changed, and a recommender with the trained model.
    """
    model, processor = recommender.model, recommender.processor
    compared = _compared_users(history, seed)
    answers = _answers(recommender, compared)
    vectors = _text_vectors(recommender)
    train, valid = training_histories(
        history, model.config.max_position_embeddings, REPLAY, np.random.default_rng(seed)
    )
    targets = int(np.maximum(np.diff(train.offsets) - 1, 0).sum())
    catalogue = _with_all_rows(model, processor.catalogue, history)
    encoder = model.detach_text_encoder()
    share, values = 0.0, {}
    if targets:
        trainer = _trainer(model, train, valid, vectors, targets, work, seed, use_cpu)
        trainer.remove_callback(PrinterCallback)
        now = time.monotonic()
        trainer.add_callback(Budget("update", now + seconds, now + seconds, say))
        interpolator = WeightInterpolator(model, keep_ids=True)
        trainer.train()

        def measure() -> float:
            return trainer.predict(trainer.eval_dataset, metric_key_prefix="eval").metrics[f"eval_{CHOICE}"]

        values = interpolator.choose(SHARES if valid is not None else [SHARE], measure)
        if len(set(values.values())) == 1 < len(values):
            # Validation tells nothing, as without any. After a tie the model has the largest share, 1.
            values = {SHARE: values[SHARE]} | values
            interpolator.choose([SHARE], measure)
        share = next(iter(values))
        if valid is not None and (former := model.config.text_neighbours):
            # They help a model that knows little of the shop; from some point on it ranks better alone.
            tried = choose_text_neighbours(model.config, measure, (0.0, former))
            values[share] = tried[model.config.text_neighbours]
            if not model.config.text_neighbours:
                say(
                    "text neighbours are left out of the score from now on: without them the new interactions rank better"
                )
    else:
        say("no history has two items, so the weights stay as they are")
    if targets and model.config.text_space is not None:
        model.config.text_space = "own"
    model.to("cpu").eval()
    if encoder is not None:
        model.attach_text_encoder(encoder)
    processor.catalogue = catalogue
    updated = Recommender(model, processor)
    overlap = None
    if compared:
        pairs = zip(answers, _answers(updated, compared), strict=True)
        overlap = float(np.mean([len(before & after) / max(len(before), 1) for before, after in pairs]))
    validated = 0 if valid is None or not values else len(valid)
    before, after = (values[0.0], values[share]) if validated else (None, None)
    return WarmStart(share, before, after, validated, overlap, len(compared)), updated


def _trainer(
    model: UniSRecModel,
    train: Split,
    valid: Split | None,
    vectors: np.ndarray,
    targets: int,
    work: Path,
    seed: int,
    use_cpu: bool,
) -> UniSRecFinetuneTrainer:
    """Builds the trainer, whose batches give about 25 steps an epoch, as those of `fit`."""
    batch = min(max(64, 1 << max(targets // 25, 1).bit_length() - 1), 2048)
    args = UniSRecFinetuneArguments(
        str(work),
        num_train_epochs=MOST_EPOCHS if valid is not None else EPOCHS,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=batch,
        num_negatives=2048 if len(vectors) > LARGE_CATALOGUE else None,
        freeze_sequence_encoder=False,
        text_neighbours=model.config.text_neighbours,
        early_stopping_patience=PATIENCE if valid is not None else 0,
        hold_out=valid is not None,
        metric_for_best_model=CHOICE,
        save_total_limit=1,
        seed=seed,
        use_cpu=use_cpu,
        disable_tqdm=True,
        report_to="none",
    )
    return UniSRecFinetuneTrainer(
        model,
        args,
        train_dataset=WindowDataset([train], [len(vectors)], model.config.max_position_embeddings),
        eval_dataset=None if valid is None else RankingDataset(valid, vectors),
        text_embeds=vectors,
    )


def _with_all_rows(model: UniSRecModel, catalogue: ItemCatalogue, history: ShopHistory) -> ItemCatalogue:
    """Gives every item, including those no longer sold, its own row in the ID embedding of a transductive model, and returns the
    catalogue with these rows. Trained rows keep their values; new ones are zero, as they were ranked until now."""
    if model.config.num_items is None:
        return catalogue
    former = catalogue.former
    old = torch.cat(
        [
            catalogue.id_rows_of(torch.arange(len(catalogue))),
            torch.tensor([each.id_row for each in former.values()]).long(),
        ]
    )
    weight = model.item_embedding.weight.detach()[old]
    model.item_embedding = nn.Embedding.from_pretrained(
        torch.cat([torch.zeros_like(weight[:1]), weight]), freeze=False, padding_idx=0
    )
    model.config.num_items = len(old)
    rows = torch.arange(1, len(old) + 1)
    ids = history.domain.items["item_id"].to_list()
    hashed = ItemCatalogue(ids, history.domain.items["text"].to_list()).item_ids_hash
    model.config.item_ids_hash = hashed
    return ItemCatalogue(
        catalogue.item_ids,
        catalogue.texts,
        catalogue.item_embeddings,
        rows[: len(catalogue)],
        hashed,
        catalogue.columns,
        {
            name: FormerItem(each.text, int(row))
            for (name, each), row in zip(former.items(), rows[len(catalogue) :], strict=True)
        },
        catalogue.tables,
    )


def _text_vectors(recommender: Recommender) -> np.ndarray:
    """Returns the text vectors of all items; only those of items no longer sold are encoded."""
    catalogue = recommender.processor.catalogue
    if not recommender.model.config.item_text:
        return np.empty((len(catalogue) + len(catalogue.former), 0), dtype=np.float32)
    encoder = VectorEncoder(recommender.model, recommender.processor)
    former = encoder.texts([each.text for each in catalogue.former.values()])
    return torch.cat([catalogue.item_embeddings, former]).numpy()


def _compared_users(history: ShopHistory, seed: int) -> list[list[str]]:
    """Returns the histories of randomly chosen users without new interactions."""
    users = np.flatnonzero(~history.is_touched)
    users = np.random.default_rng(seed).permutation(users)[:COMPARED_USERS]
    ids, domain = history.domain.items["item_id"], history.domain
    return [ids.gather(domain.flat[domain.offsets[user] : domain.offsets[user + 1]]).to_list() for user in users]


def _answers(recommender: Recommender, histories: list[list[str]]) -> list[set[str]]:
    return [{item.item_id for item in items} for items in recommender.recommend(histories, TOP_K)]


__all__ = ["WarmStart", "warm_start"]
