"""The layers between `transformers.Trainer` and what a user calls."""

import inspect
import re

import pytest
from transformers import Trainer

from unisrec.trainer import UniSRecFinetuneTrainer, UniSRecPretrainTrainer, base_trainer


LAYERS = {
    layer
    for trainer in (UniSRecPretrainTrainer, UniSRecFinetuneTrainer)
    for layer in trainer.__mro__[: trainer.__mro__.index(Trainer)]
}


@pytest.mark.parametrize("trainer", [UniSRecPretrainTrainer, UniSRecFinetuneTrainer])
def test_there_are_at_most_three_layers(trainer):
    assert trainer.__mro__.index(Trainer) <= 3


def test_overrides_of_private_methods_are_listed_with_their_reason():
    lines = re.findall(r"^# - (`_.*`): \S", inspect.getsource(base_trainer), re.MULTILINE)
    listed = {name for line in lines for name in re.findall(r"`(_\w+)`", line)}
    overridden = {name for layer in LAYERS for name in vars(layer) if hasattr(Trainer, name) and name[:2] != "__"}
    assert {name for name in overridden if name.startswith("_")} == listed
