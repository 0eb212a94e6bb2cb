"""Safe reading of `torch.save` files that contain objects of other packages, without running any code.

A `.pth` file is a zip archive of raw tensors and a pickle, and unpickling runs arbitrary code. Nothing is unpickled
here: [`parse_pickle`] reads the opcodes as data, and represents imports and calls by names.
"""

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}
DICT, TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of a torch.save file before version 1.6
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(eq=False, repr=False)
class Inert:
    """Placeholder for an import (a name) or a call (a name with arguments) in a pickle, and the state it would set."""

    name: str
    arguments: Any = None
    state: Any = None


def describe(value: Any) -> str:
    """Returns a short description of an entry of a checkpoint."""
    match value:
        case Inert(name=name, arguments=(_, _, tuple(size), *_)) if name == TENSOR:
            return f"a tensor {' x '.join(map(str, size))}"
        case Inert(name=name):
            return f"a pickled {name!r}"
        case None | bool() | int() | float():
            return repr(value)
        case _:
            return f"a {type(value).__name__}"


def parse_pickle(data: bytes) -> tuple[Any, set[str]]:
    r"""
    Parses a pickle into plain containers, strings, numbers and [`Inert`] without importing or calling anything.

    Args:
        data (`bytes`): Pickle with the opcodes that `torch.save` writes (protocol 2).

    Returns:
        `tuple[Any, set[str]]`: The object, and the names that the pickle would import.

    Raises:
        ValueError: If the pickle is damaged or has other opcodes.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    names: set[str] = set()

    def pop(count: int | None = None) -> list[Any]:
        """Pops the last `count` entries, or those since the last mark."""
        start = marks.pop() if count is None else len(stack) - count
        if start < 0:
            raise IndexError("the stack is empty")
        items = stack[start:]
        del stack[start:]
        return items

    try:
        for opcode, argument, _ in pickletools.genops(data):
            match opcode.name:
                case "PROTO":
                    pass
                case "STOP":
                    return stack.pop(), names
                case "MARK":
                    marks.append(len(stack))
                case "POP" | "POP_MARK":
                    pop(1 if opcode.name == "POP" else None)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append(CONSTANTS[opcode.name])
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE":
                    stack.append(argument)
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(pop(int(opcode.name[-1]))))
                case "TUPLE":
                    stack.append(tuple(pop()))
                case "APPEND" | "APPENDS":
                    items = pop(1 if opcode.name == "APPEND" else None)
                    if isinstance(stack[-1], list):
                        stack[-1].extend(items)
                case "SETITEM" | "SETITEMS":
                    items = pop(2 if opcode.name == "SETITEM" else None)
                    if isinstance(stack[-1], dict):
                        pairs = zip(items[::2], items[1::2], strict=True)
                        stack[-1].update((key, value) for key, value in pairs if isinstance(key, str | int))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(Inert(argument.replace(" ", ".")))
                    names.add(stack[-1].name)
                case "BINPERSID":
                    stack.append(Inert("storage of a tensor", stack.pop()))
                case "REDUCE" | "NEWOBJ":
                    called, arguments = pop(2)
                    if not isinstance(called, Inert):
                        raise ValueError("it calls something without a name")
                    is_dict = called.name == DICT and arguments == ()
                    stack.append({} if is_dict else Inert(called.name, arguments))
                case "BUILD":
                    (state,) = pop(1)
                    if isinstance(stack[-1], Inert):
                        stack[-1].state = state
                case name:
                    raise ValueError(f"torch.save does not write opcode {name}")
    except (ValueError, LookupError, OverflowError) as error:
        raise ValueError(f"its pickle cannot be read ({error})") from error
    raise ValueError("its pickle has no end")


class TorchArchive:
    r"""
    A `.pth` file: gives its pickle as data and reads its tensors on demand.

    Args:
        path (`Path`): The file.

    Raises:
        ValueError: If the file is not a zip archive of `torch.save`.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            start = file.read(len(LEGACY_START))
        if start == LEGACY_START:
            raise ValueError("it has the format before PyTorch 1.6; load it where it was made and save it again")
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            is_zip = start.startswith(b"PK")
            reason = "it is cut short or damaged; copy it again" if is_zip else "it is no zip archive of torch.save"
            raise ValueError(reason) from error
        self.bytes_left = path.stat().st_size  # all tensors together are no larger than the file
        pickles = [name for name in self.zip.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive without the data.pkl of torch.save")
        self.folder = pickles[0].removesuffix("data.pkl")
        if f"{self.folder}byteorder" in self.zip.namelist() and self.read("byteorder") != b"little":
            raise ValueError("it was saved on a big-endian machine; save it again on another one")

    def read(self, name: str) -> bytes:
        """Reads a file of the archive. torch does not compress, so no file is larger than the archive."""
        try:
            info = self.zip.getinfo(self.folder + name)
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            return self.zip.read(info)
        except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name!r} in it cannot be read ({str(error) or 'it is cut short'})") from error

    def tensor(self, name: str, value: Any) -> torch.Tensor:
        r"""
        Reads a tensor described in the pickle. Its sizes are checked before memory is allocated.

        Args:
            name (`str`): Name of the tensor in error messages.
            value (`Any`): Description of the tensor in the pickle.

        Returns:
            `torch.FloatTensor`: The tensor in its saved dtype and shape.

        Raises:
            ValueError: If `value` does not describe a floating point tensor of the file.
        """
        match value:
            case Inert(
                name=function,
                arguments=(
                    Inert(arguments=("storage", Inert(name=kind), str(key), _, _)),
                    int(offset),
                    tuple(size),
                    tuple(stride),
                    *_,
                ),
            ) if function == TENSOR and kind in DTYPES and all(isinstance(n, int) and n > 0 for n in size):
                dtype, count = DTYPES[kind], math.prod(size)
            case _:
                raise ValueError(f"{name!r} in it is {describe(value)}, expected a tensor of floating point numbers")
        self.bytes_left -= count * dtype.itemsize
        if self.bytes_left < 0:
            raise ValueError(f"{name!r} in it claims more numbers than the file holds")
        data = bytearray(self.read(f"data/{key}"))
        if not 0 <= offset <= len(data) // dtype.itemsize - count:
            raise ValueError(f"{name!r} in it claims more numbers than its storage holds")
        if stride != torch.empty(size, device="meta").stride():
            raise ValueError(f"{name!r} in it is a view with gaps; save it again as a contiguous tensor")
        return torch.frombuffer(data, dtype=dtype)[offset : offset + count].view(size)


__all__ = ["DICT", "DTYPES", "TENSOR", "Inert", "TorchArchive", "describe", "parse_pickle"]
