"""Modules that were moved are still found where code outside of this repository imports them from."""


def test_former_homes_hold_the_same_objects():
    from unisrec.data import text_encoders as former
    from unisrec.modeling_unisrec import text_encoders
    from unisrec.trainer import finetuning, transfer

    assert former.find_text_pooling is text_encoders.find_text_pooling
    assert transfer.finetune is finetuning.finetune
