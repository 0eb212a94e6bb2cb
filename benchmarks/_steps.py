"""Training steps of both ways on the same synthetic histories: what pretrain_step.py and finetune_step.py share."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from reference import OfficialUniSRec, pad_rows

from unisrec import (
    UniSRecConfig,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecModel,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
)
from unisrec.data import Domain, Split, leave_one_out
from unisrec.trainer import PretrainCollator, WindowDataset
from unisrec.trainer.batches.window_batches import StaticShapes


TEXT_SIZE = 384  # MiniLM
# Mean, and spread of the logarithm, of the lengths of training histories: as in Office, as in Online Retail.
LENGTHS = {"short": (5.0, 0.7), "long": (27.0, 1.0)}
Step = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """What a step is measured on; `length` is the longest history, `settings` are further fields of the configuration. With
    `domain`, the folder of a prepared domain, histories and number of items are those of its training part."""

    histories: str = "short"
    num_items: int = 3500
    targets: int = 2048
    num_batches: int = 3
    length: int = 50
    transductive: bool = True
    settings: tuple[tuple[str, object], ...] = ()
    device: str = "cpu"
    domain: str | None = None

    def split(self) -> Split:
        """Random histories: lengths as in the domains above, items by popularity."""
        if self.domain is not None:
            return leave_one_out(Domain.load_from_disk(self.domain), "train")
        rng = np.random.default_rng(0)
        mean, spread = LENGTHS[self.histories]
        popularity = 1 / np.arange(20, self.num_items + 20)
        lengths: list[int] = []
        while sum(lengths) - len(lengths) < self.targets * self.num_batches:
            lengths.append(int(np.clip(mean * np.exp(spread * rng.normal() - spread**2 / 2), 2, self.length + 1)))
        items = rng.choice(self.num_items, size=sum(lengths), p=popularity / popularity.sum())
        return Split(items, np.cumsum([0, *lengths]), np.arange(len(lengths)))

    def text_embeds(self) -> np.ndarray:
        """Random text vectors of length 1."""
        vectors = np.random.default_rng(1).normal(size=(self.num_items, TEXT_SIZE)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def model(self) -> UniSRecModel:
        """A new model at the paper's sizes; always the same one."""
        torch.manual_seed(0)
        num_items = self.num_items if self.transductive else None
        return UniSRecModel(
            UniSRecConfig(
                text_embedding_size=TEXT_SIZE,
                num_items=num_items,
                max_position_embeddings=self.length,
                **dict(self.settings),
            )
        )


def _batches(trainer: UniSRecFinetuneTrainer | UniSRecPretrainTrainer, number: int) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(trainer.get_train_dataloader(), number))


def _epochs(trainer: UniSRecFinetuneTrainer | UniSRecPretrainTrainer) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of one epoch after another, each collated when it is taken."""
    return itertools.chain.from_iterable(itertools.repeat(trainer.get_train_dataloader()))


def _prefixes(index: np.ndarray, places: np.ndarray) -> list[list[int]]:
    """The histories that end at places of a flattened (batch, length) matrix."""
    return [index[row, : column + 1].tolist() for row, column in zip(*np.divmod(places, index.shape[1]), strict=True)]


def _on(device: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(device) for tensor in tensors]


def _steps_of(
    trainer: UniSRecFinetuneTrainer | UniSRecPretrainTrainer, turn: Iterator[dict[str, torch.Tensor]]
) -> Step:
    """A function that makes one step of a trainer without the rest of its loop, on the next of the batches each time."""
    wrapped = trainer.accelerator.prepare_model(
        trainer.model
    )  # autocast and compilation, where the arguments ask for them
    optimizer = trainer.create_optimizer()

    def step() -> torch.Tensor:
        loss = trainer.training_step(wrapped, next(turn))
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def _train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: list[Callable[[], torch.Tensor]]) -> Step:
    """A function that makes one training step, on the next of the batches each time."""
    model.train()
    turn = itertools.cycle(losses)
    device = next(model.parameters()).device

    def step() -> torch.Tensor:
        with device:  # the reference makes masks of its own
            loss = next(turn)()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _adam(model: torch.nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)


def finetune_steps(workload: Workload, path: str, **arguments) -> Step:
    """A step of transfer on the same windows, `path` "ours" (a step of [`UniSRecFinetuneTrainer`] with further `arguments`,
    without the rest of its loop), "ours, collated" (the same with the collation of its batch) or "reference", always over the
    whole catalogue."""
    model, text_embeds = workload.model(), workload.text_embeds()
    with tempfile.TemporaryDirectory() as folder:
        args = UniSRecFinetuneArguments(
            folder,
            per_device_train_batch_size=workload.targets,
            load_best_model_at_end=False,
            eval_strategy="no",
            disable_tqdm=True,
            use_cpu=workload.device == "cpu",
            **({"static_batches": False} if path == "reference" else arguments),
        )
        windows = WindowDataset([workload.split()], [workload.num_items], workload.length)
        trainer = UniSRecFinetuneTrainer(model, args, train_dataset=windows, text_embeds=text_embeds)
    if path == "ours, collated":
        return _steps_of(trainer, _epochs(trainer))
    batches = _batches(trainer, workload.num_batches)
    if path == "ours":
        return _steps_of(trainer, itertools.cycle(batches))

    official = OfficialUniSRec(model, torch.from_numpy(text_embeds)).to(workload.device)
    losses = []
    for batch in batches:
        prefixes = _prefixes(batch["item_index"].numpy(force=True), batch["query_index"].numpy(force=True))
        inputs = _on(workload.device, *pad_rows(prefixes, workload.length), batch["labels"] + 1)
        losses.append(lambda inputs=inputs: official.transfer_loss(*inputs))
    return _train(official, _adam(official), losses)


def pretrain_steps(workload: Workload, path: str, **arguments) -> Step:
    """A step of pre-training, `path` and `arguments` as for [`finetune_steps`]. All views are made by item drop."""
    model, text_embeds = workload.model(), workload.text_embeds()
    with tempfile.TemporaryDirectory() as folder:
        args = UniSRecPretrainArguments(
            folder,
            per_device_train_batch_size=workload.targets,
            eval_strategy="no",
            disable_tqdm=True,
            use_cpu=workload.device == "cpu",
            **({"static_batches": False} if path == "reference" else arguments),
        )
        windows = WindowDataset([workload.split()], [workload.num_items], workload.length)
        if args.static_batches:
            vectors = torch.from_numpy(text_embeds).to(args.device)
            shapes = StaticShapes.of(windows.lengths, workload.targets)
            collator = PretrainCollator(None, views=args.sequence_loss_weight != 0, shapes=shapes)
        else:
            vectors, collator = None, PretrainCollator(lambda items: text_embeds[items])
        trainer = UniSRecPretrainTrainer(
            model, args, train_dataset=windows, data_collator=collator, text_vectors=vectors
        )
    if path == "ours, collated":
        return _steps_of(trainer, _epochs(trainer))
    batches = _batches(trainer, workload.num_batches)
    if path == "ours":
        return _steps_of(trainer, itertools.cycle(batches))

    official = OfficialUniSRec(model, torch.from_numpy(text_embeds)).to(workload.device)
    losses = []
    for batch in batches:
        batch = {name: value.numpy(force=True) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        # Rows of the items of the batch -> item numbers of the catalogue.
        number_of_row = np.zeros(len(batch["text_embeds"]) + 1, dtype=np.int64)
        number_of_row[batch["target_rows"] + 1] = batch["target_items"] + 1
        for row in np.flatnonzero(number_of_row[1:] == 0):  # first items of histories, which are no targets
            number_of_row[row + 1] = 1 + np.flatnonzero((text_embeds == batch["text_embeds"][row]).all(1))[0]
        originals, views = number_of_row[batch["item_index"]].reshape(2, -1, batch["item_index"].shape[1])
        inputs = _on(
            workload.device,
            *pad_rows(_prefixes(originals, batch["query_index"]), workload.length),
            *pad_rows(_prefixes(views, batch["view_index"]), workload.length),
            torch.from_numpy(batch["target_items"] + 1),
            torch.from_numpy(batch["target_sequences"]),
        )
        losses.append(lambda inputs=inputs: official.pretraining_loss(*inputs, args.sequence_loss_weight))
    return _train(official, _adam(official), losses)
