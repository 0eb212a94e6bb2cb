"""A tiny checkpoint to serve."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


@pytest.fixture(scope="session")
def make_recommender(make_model, make_domain, text_encoder_dir) -> Callable[[], Recommender]:
    """Makes equal recommenders of 30 products, `toys-0` to `toys-29`."""
    items = make_domain().items
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)

    def make() -> Recommender:
        model = make_model()
        model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir))
        catalogue = ItemCatalogue(items["item_id"].to_list(), items["text"].to_list())
        return Recommender(model, UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32))

    return make


@pytest.fixture(scope="session")
def recommender(make_recommender) -> Recommender:
    return make_recommender()


@pytest.fixture(scope="session")
def shop(recommender, tmp_path_factory) -> Path:
    """The folder of the checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "shop"
    recommender.save_pretrained(folder)
    return folder
