"""Public names are imported on first use, and the Auto classes know our checkpoints whichever package comes first."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unisrec
from unisrec import ItemCatalogue, UniSRecProcessor


HEAVY = ("torch", "transformers", "polars", "datasets", "accelerate")
ORDERS = {
    "ours first": "import unisrec; from transformers import AutoModel, AutoProcessor, pipeline",
    "pipelines first": "import unisrec; from transformers import pipeline; from transformers import AutoModel, AutoProcessor",
    "theirs first": "from transformers import AutoModel, AutoProcessor, pipeline; import unisrec",
    "between": "from transformers import AutoConfig; import unisrec; from transformers import AutoModel, AutoProcessor, pipeline",
    "a class of ours first": "from unisrec import UniSRecConfig; from transformers import AutoModel, AutoProcessor, pipeline",
    "twice": "import unisrec, importlib; importlib.reload(unisrec); from transformers import AutoModel, AutoProcessor, pipeline",
}
USUAL = ("ours first", "theirs first")
LOAD = """
import sys
model, processor = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
recommend = pipeline("sequential-recommendation", model=model, processor=processor)
print(*(type(each).__module__ for each in (model, processor, recommend)))
from unisrec import Recommender, evaluate
print([name for name in sys.modules if name.startswith("unisrec.tr")])
"""


def run(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_import_loads_nothing_heavy():
    process = run(f"import sys, unisrec; print([name for name in {HEAVY} if name in sys.modules])")
    assert process.communicate()[0].strip() == "[]"


@pytest.mark.parametrize(
    "order", [name if name in USUAL else pytest.param(name, marks=pytest.mark.rare) for name in ORDERS]
)
def test_auto_classes_know_us_in_any_order_of_imports(make_model, tokenizer, tmp_path, order):
    """Whereby serving and evaluation load no trainer."""
    make_model().save_pretrained(tmp_path)
    catalogue = ItemCatalogue(["a", "b"], ["red pen", "blue pen"], torch.randn(2, 16))
    UniSRecProcessor(tokenizer, catalogue, 10, 32).save_pretrained(tmp_path)
    output, errors = run(ORDERS[order] + LOAD, str(tmp_path)).communicate()
    folder = "unisrec.modeling_unisrec"
    modules, trainers = output.splitlines() or errors.splitlines()[-2:]
    assert modules == f"{folder}.modeling_unisrec {folder}.processing_unisrec {folder}.pipeline_unisrec"
    assert trainers == "[]"


def test_names_for_editors_are_the_names_that_are_exported():
    tree = ast.parse(Path(unisrec.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    shown = {f"{statement.module}.{alias.asname}" for statement in block.body for alias in statement.names}
    assert shown == {f"{folder}.{name}" for folder, names in unisrec._EXPORTS.items() for name in names}
    assert all(hasattr(unisrec, name) for name in unisrec.__all__)
