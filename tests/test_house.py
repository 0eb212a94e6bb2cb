"""Imports between the folders point one way; `python tests/test_house.py` prints the picture."""

import ast
from collections import Counter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
# Each floor may import the floors named here and itself.
FLOORS: dict[str, set[str]] = {"configuration": set()}
FLOORS["modeling_unisrec"] = {"configuration"}
FLOORS["data"] = FLOORS["modeling_unisrec"] | {"modeling_unisrec"}
FLOORS["evaluation"] = FLOORS["data"] | {"data"}
FLOORS["reports"] = FLOORS["evaluation"] | {"evaluation"}
FLOORS["trainer"] = FLOORS["reports"] | {"reports"}
FLOORS["recommender"] = FLOORS["data"] | {"data"}
FLOORS["serving"] = FLOORS["recommender"] | {"recommender"}
FLOORS["demo"] = FLOORS["serving"] | {"serving", "evaluation"}
FLOORS["unisrec"] = set(FLOORS)
# Files that may be longer than 400 lines, which is not to become normal.
LONGEST = {
    "modeling_unisrec/modeling_unisrec.py": 735,  # remote code: one file, as in transformers
}
MOST_FILES = 20  # in a folder, those below it not counted
MOST_VERBS = 24  # files of `unisrec/commands`, one for each verb and a few that they share


def imported_floors(file: Path) -> Counter[str]:
    """How many import statements of a file reach into each floor."""
    *folders, _ = file.relative_to(ROOT).parts
    package = folders if folders[0] == "unisrec" else ["unisrec", *folders]
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = package[: len(package) - node.level + 1] + (node.module or "").split(".")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unisrec":
            module = node.module.split(".")
        elif isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "unisrec" for alias in node.names):
            raise AssertionError(f"{file}: import of `unisrec` inside the package; imports are relative")
        else:
            continue
        names = [alias.name for alias in node.names] if module in (["unisrec"], ["unisrec", ""]) else module[1:2]
        for name in names:
            found[name if name in FLOORS else "unisrec"] += 1
    return found


def files_of(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor):
    assert files_of(floor)
    for file in files_of(floor):
        wrong = set(imported_floors(file)) - FLOORS[floor] - {floor}
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_no_floor_is_missing_here():
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert with_code == set(FLOORS)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_file_fits_in_a_head(floor):
    for file in files_of(floor):
        name = file.relative_to(ROOT).as_posix()
        assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST.get(name, 400), name
    for folder, count in Counter(file.parent for file in files_of(floor)).items():
        assert count <= (MOST_VERBS if folder.name == "commands" else MOST_FILES), folder


def picture() -> str:
    """The floors with the size of each and how many imports reach into which lower floor."""
    lines = []
    for floor in FLOORS:
        files = files_of(floor)
        total: Counter[str] = sum((imported_floors(file) for file in files), Counter())
        rows = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        below = ", ".join(f"{name} {total[name]}" for name in FLOORS if name != floor and total[name])
        lines.append(f"{floor:17} {len(files):3} files {rows:6,} lines  <- {below or 'nothing of ours'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(picture())
