"""Several models as one: their mean scores, and what they teach."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unisrec.data import leave_one_out
from unisrec.evaluation import RankingDataset
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecFinetuneTrainer, WindowDataset
from unisrec.trainer.ensemble import Ensemble


NUM_ITEMS = 60
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain(num_users=50, num_items=NUM_ITEMS, longest=16)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).normal(size=(NUM_ITEMS, 16)).astype(np.float32)


@pytest.fixture
def make_ensemble(make_model, domain, table, tmp_path):
    """Saves models with the catalogue of the domain, and loads them as one."""

    def make(*fields: dict) -> Ensemble:
        names = []
        for seed, settings in enumerate(fields):
            model = make_model(seed=seed, **({"num_items": NUM_ITEMS} | settings))
            processor = UniSRecProcessor()
            texts = domain.items["text"].to_list()
            processor.catalogue = ItemCatalogue(domain.items["item_id"].to_list(), texts, torch.from_numpy(table))
            names.append(tmp_path / f"teacher-{seed}")
            model.save_pretrained(names[-1])
            processor.save_pretrained(names[-1])
        return Ensemble.load(names, domain, CPU)

    return make


@pytest.fixture
def make_trainer(make_model, domain, table, training_options, tmp_path):
    """Makes trainers of a text + ID model, with sampled softmax or without."""

    def make(teachers: Ensemble | None, num_negatives: int | None = None, **arguments) -> UniSRecFinetuneTrainer:
        no_evaluation = {"load_best_model_at_end": False, "early_stopping_patience": 0}
        options = {"per_device_train_batch_size": 60, "learning_rate": 1e-2, "num_train_epochs": 3} | no_evaluation
        return UniSRecFinetuneTrainer(
            make_model(seed=9, num_items=NUM_ITEMS),
            UniSRecFinetuneArguments(
                output_dir=str(tmp_path / "run"),
                num_negatives=num_negatives,
                **(training_options | options | arguments),
            ),
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [NUM_ITEMS], 10),
            eval_dataset=RankingDataset(leave_one_out(domain, "valid"), table),
            text_embeds=table,
            teachers=teachers,
        )

    return make


def catalogue_of(table):
    return {"text_embeds": torch.from_numpy(table), "id_rows": torch.arange(1, NUM_ITEMS + 1)}


def test_products_of_the_vectors_are_the_mean_scores(make_ensemble, table):
    ensemble = make_ensemble(
        {"temperature": 0.1},
        {"num_items": None, "hidden_size": 12},
        {"similarity": "dot", "max_position_embeddings": 5},
    )
    assert ensemble.max_length == 5
    histories = torch.tensor([[3, 1, 4, 1], [5, 9, 0, 0]])
    places = torch.tensor([0, 3, 5])  # after one item, after four, after two
    candidates = torch.tensor([7, 0, 59])
    queries, items = ensemble.queries(histories, places), ensemble.candidates[candidates]
    expected = 0
    for model in ensemble.models:
        output = model(item_index=histories, **catalogue_of(table))
        states = output.last_hidden_state.flatten(0, 1)[places]
        expected = expected + model.score(states, output.item_embeds[candidates]) / 3
    torch.testing.assert_close(queries @ items.T, expected, rtol=0, atol=1e-4)


def test_a_model_of_another_catalogue_is_refused(make_ensemble, make_domain, tmp_path):
    make_ensemble({})
    other = make_domain(num_users=10, num_items=NUM_ITEMS, name="shoes")
    with pytest.raises(ValueError, match="its catalogue is not that of shoes"):
        Ensemble.load([tmp_path / "teacher-0"], other, CPU)


@pytest.mark.parametrize("num_negatives", [None, 20])
def test_loss_has_the_mean_of_the_teachers_in_its_target(make_ensemble, make_trainer, table, num_negatives):
    teachers = make_ensemble({}, {"num_items": None})
    trainer = make_trainer(teachers, num_negatives, distillation_weight=0.3)
    model = trainer.model.eval()
    windows = [trainer.train_dataset[index] for index in (0, 1, 5, 7)]
    inputs = trainer.data_collator(windows)
    loss = trainer.compute_loss(model, inputs)

    if num_negatives is None:
        candidates, log_inclusion = torch.arange(NUM_ITEMS), torch.zeros(NUM_ITEMS)
    else:
        drawn = trainer.candidates.sampler.draw(inputs["first_window"])
        candidates = torch.cat([inputs["items"], drawn]).unique()
        log_inclusion = trainer.candidates.sampler.log_inclusion(candidates, len(inputs["labels"]))
    losses = []
    for window in windows:
        history = torch.from_numpy(window["items"])
        correction = torch.where(torch.isin(candidates, history), 0, log_inclusion)
        output = model(item_index=history[None] + 1, **catalogue_of(table))
        logits = model.score(output.last_hidden_state[0], output.item_embeds[candidates]) - correction
        queries = teachers.queries(history[None] + 1, torch.arange(len(history)))
        taught = (queries @ teachers.candidates[candidates].T - correction).softmax(1)
        for place, item in enumerate(history[1:]):
            target = 0.3 * taught[place] + 0.7 * (candidates == item)
            # A target is in its window: nothing is taken from its own score.
            losses.append(-(target * logits[place].log_softmax(0)).sum())
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=0, atol=1e-4)


def test_a_student_comes_near_its_teachers(make_ensemble, make_trainer, table):
    teachers = make_ensemble({}, {})

    def distance(trainer: UniSRecFinetuneTrainer) -> float:
        windows = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
        inputs = trainer.data_collator(windows)
        with torch.no_grad():
            output = trainer.model.eval()(item_index=inputs["item_index"], **catalogue_of(table))
        states = output.last_hidden_state.flatten(0, 1)[inputs["query_index"]]
        queries = teachers.queries(inputs["item_index"], inputs["query_index"])
        student = trainer.model.score(states, output.item_embeds)
        return F.kl_div(
            student.log_softmax(1), (queries @ teachers.candidates.T).softmax(1), reduction="batchmean"
        ).item()

    settings = {"freeze_sequence_encoder": False, "num_train_epochs": 20, "distillation_weight": 1.0}
    trainer, alone = make_trainer(teachers, **settings), make_trainer(None, **settings)
    before = distance(trainer)
    trainer.train()
    alone.train()
    assert distance(trainer) < 0.2 * before
    assert distance(trainer) < 0.5 * distance(alone)


def test_a_teacher_of_shorter_histories_is_refused(make_ensemble, make_trainer):
    with pytest.raises(ValueError, match="a teacher accepts histories of 5 items only, the model 10: leave it out"):
        make_trainer(make_ensemble({"max_position_embeddings": 5}))


def test_teachers_do_not_move(make_ensemble, make_trainer):
    teachers = make_ensemble({}, {})
    before = [weight.clone() for model in teachers.models for weight in model.parameters()]
    make_trainer(teachers, 20).train()
    after = [weight for model in teachers.models for weight in model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_share_is_between_0_and_1(tmp_path):
    with pytest.raises(ValueError, match=r"--distillation_weight is 1.5, expected a number in \[0, 1\]"):
        UniSRecFinetuneArguments(str(tmp_path), distillation_weight=1.5)
