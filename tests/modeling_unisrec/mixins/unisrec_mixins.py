"""The mixins of transformers on our model and processor.

Run by test_transformers_mixins.py, which puts the tests of transformers beside this file; not collected on its own.
"""

import tempfile
import unittest
from pathlib import Path

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tests.test_processing_common import ProcessorTesterMixin
from transformers import BertConfig, BertTokenizer

from unisrec.configuration import UniSRecConfig
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor


# Tests of the mixins that do not fit, by the start of their names, and why.
NOT_FOR_US = {
    "test_eager_matches_sdpa_inference": "gives the main input and a mask alone, and a history means nothing without its "
    "items; tests/modeling_unisrec/test_modeling_common.py compares the two kinds of attention",
    "test_training": "the losses are those of the trainers, `forward` has none (the test with gradient checkpointing too)",
}
# Besides, where there is no text encoder.
NOT_WITHOUT_TEXT = {
    "test_get_text_features": "there is no text encoder: `get_text_features` says so",
    "test_model_get_set_embeddings": "there is no table of tokens",
    "test_resize_tokens_embeddings": "there is no table of tokens",
}
NOT_FOR_OUR_PROCESSOR = {
    "test_model_input_names": "calls by `text`, `images` and so on; a history is none of them",
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": "calls by `text`; a history is none",
}


def without(tests: dict[str, str]):
    """Class decorator that skips tests, each with its reason."""

    def decorate(cls):
        for name in dir(cls):
            reason = next((tests[start] for start in tests if name.startswith(start)), None)
            if reason is not None:
                setattr(cls, name, unittest.skip(f"not for us: {reason}")(getattr(cls, name)))
        return cls

    return decorate


class UniSRecModelTester:
    """Sizes, a configuration and inputs, as the mixin asks for them."""

    batch_size, seq_length, num_items, num_tokens = 3, 7, 9, 6
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    is_training = True

    def __init__(self, parent, reads_text: bool, num_ids: int | None):
        self.parent, self.reads_text, self.num_ids = parent, reads_text, num_ids

    def get_config(self) -> UniSRecConfig:
        text_config = BertConfig(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return UniSRecConfig(
            text_config=text_config if self.reads_text else None,
            text_embedding_size=32,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=self.seq_length,
            num_experts=3,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            adaptor_dropout=0.0,
            num_items=self.num_ids,
        )

    def prepare_config_and_inputs_for_common(self):
        inputs = {"item_index": ids_tensor([self.batch_size, self.seq_length], self.num_items) + 1}
        if self.reads_text:
            inputs["input_ids"] = ids_tensor([self.num_items + 1, self.num_tokens], 40)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        else:
            inputs["text_embeds"] = floats_tensor([self.num_items + 1, 32])
        if self.num_ids is not None:
            inputs["id_rows"] = ids_tensor([self.num_items + 1], self.num_ids)
        return self.get_config(), inputs


class ModelTest:
    """What the three settings share."""

    all_model_classes = (UniSRecModel,)
    reads_text, num_ids = False, None

    def setUp(self):
        self.model_tester = UniSRecModelTester(self, self.reads_text, self.num_ids)
        self.config_tester = ConfigTester(
            self, config_class=UniSRecConfig, has_text_modality=False, common_properties=["hidden_size"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()


@without(NOT_FOR_US | NOT_WITHOUT_TEXT)
class InductiveModelTest(ModelTest, ModelTesterMixin, unittest.TestCase):
    """Items as text vectors."""


@without(NOT_FOR_US | NOT_WITHOUT_TEXT)
class TransductiveModelTest(ModelTest, ModelTesterMixin, unittest.TestCase):
    """Items as text vectors and IDs."""

    num_ids = 9


@without(NOT_FOR_US)
class TextModelTest(ModelTest, ModelTesterMixin, unittest.TestCase):
    """Items as tokens, through the text encoder."""

    reads_text, _is_composite = True, True


@without(NOT_FOR_OUR_PROCESSOR)
class UniSRecProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    """A processor with tokenizer and catalogue."""

    processor_class = UniSRecProcessor

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname, cls.full_tmpdirname = tempfile.mkdtemp(), None
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "red",
            "blue",
            "pen",
            "lamp",
            "tent",
            "chair",
            "(CLS)",
            "(SEP)",
        ]
        vocabulary = Path(cls.tmpdirname) / "vocab.txt"
        vocabulary.write_text("\n".join(words))
        catalogue = ItemCatalogue(["A", "B", "C"], ["red pen", "blue pen", "tent"], torch.randn(3, 8))
        processor = UniSRecProcessor(
            BertTokenizer(str(vocabulary)), catalogue, max_history_length=9, max_text_length=16
        )
        processor.save_pretrained(cls.tmpdirname)

    @staticmethod
    def prepare_processor_dict():
        return {"max_history_length": 9, "max_text_length": 16}
