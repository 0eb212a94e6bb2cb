"""Every public name is documented: what it is, each parameter by its name, and what is returned."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property

import pytest
from transformers import TrainingArguments


FLOORS = (
    "unisrec",
    "unisrec.configuration",
    "unisrec.modeling_unisrec",
    "unisrec.data",
    "unisrec.evaluation",
    "unisrec.reports",
    "unisrec.trainer",
    "unisrec.recommender",
    "unisrec.serving",
    "unisrec.serving.endpoint",
    "unisrec.serving.server",
    "unisrec.serving.listening",
    "unisrec.demo",
)


def public_objects(floor: str) -> Iterator[tuple[str, object]]:
    module = importlib.import_module(floor)
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            yield f"{floor}.{name}", found


def members(owner: type) -> Iterator[tuple[str, object]]:
    """Public functions and properties defined by a class itself."""
    for name, member in vars(owner).items():
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | cached_property)):
            yield name, member


def overrides_a_library(owner: type, name: str) -> bool:
    """Whether the method is one of a base class outside of the package, which documents it."""
    return any(hasattr(base, name) for base in owner.__mro__[1:] if not base.__module__.startswith("unisrec"))


def names_of(function) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.name not in ("self", "cls") and each.kind not in kinds]


def faults_of_function(where: str, function) -> Iterator[str]:
    doc = inspect.getdoc(function) or ""
    if not doc:
        yield f"{where}: no docstring"
        return
    missing = [name for name in names_of(function) if not re.search(rf"\b{name}\b", doc)]
    if missing:
        yield f"{where}: nothing about {missing}"
    if len(names_of(function)) > 3 and "Args:" not in doc:
        yield f"{where}: no Args"
    returned = inspect.signature(function).return_annotation
    if returned not in (None, "None", inspect.Signature.empty) and not any(
        word in doc for word in ("Return", "Yields", "returns")
    ):
        yield f"{where}: nothing about what is returned"


def faults_of_class(where: str, owner: type) -> Iterator[str]:
    doc = owner.__doc__ or ""
    init = vars(owner).get("__init__")
    doc_of_init = (init.__doc__ if init is not None else None) or ""
    if not doc or doc.startswith(f"{owner.__name__}("):  # made by dataclasses
        yield f"{where}: no docstring"
    if dataclasses.is_dataclass(owner):
        inherited = {
            field.name
            for base in owner.__mro__[1:]
            if dataclasses.is_dataclass(base)
            for field in dataclasses.fields(base)
        }
        fields = [field for field in dataclasses.fields(owner) if field.name not in inherited]
        if issubclass(owner, TrainingArguments):
            missing = [field.name for field in fields if not field.metadata.get("help")]
        else:
            missing = [field.name for field in fields if field.name not in doc and not field.name.startswith("_")]
    else:
        missing = (
            [name for name in names_of(init) if name not in doc + doc_of_init] if inspect.isfunction(init) else []
        )
    if missing:
        yield f"{where}: nothing about {missing}"
    for name, member in members(owner):
        if isinstance(member, property | cached_property):
            if not member.__doc__ and not overrides_a_library(owner, name):
                yield f"{where}.{name}: no docstring"
        elif not overrides_a_library(owner, name):
            yield from faults_of_function(f"{where}.{name}", member)


@pytest.mark.parametrize("floor", FLOORS)
def test_public_names_are_documented(floor):
    faults = []
    for where, found in public_objects(floor):
        faults += (faults_of_class if inspect.isclass(found) else faults_of_function)(where, found)
    assert not faults, "\n".join(faults)
