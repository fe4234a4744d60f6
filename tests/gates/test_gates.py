"""The gates of `make check` that are scripts see what they are there for."""

from pathlib import Path
from textwrap import indent

import pytest

from tests.gates import circles, floors, names, sizes

FORTY_LINES = "    a = 1\n" * 40


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_docstrings_comments_and_blank_lines_are_no_lines_of_a_function(tmp_path: Path) -> None:
    body = f'    """One.\n\n    Two.\n    """\n\n    # Three.\n{FORTY_LINES}'
    write(tmp_path, {"bench/x.py": f"def f():\n{body}"})
    assert sizes.faults(tmp_path, {}) == []


def test_a_method_of_41_lines_is_a_fault(tmp_path: Path) -> None:
    method = indent(f"def f(self):\n{FORTY_LINES}    return a\n", "    ")
    write(tmp_path, {"adapters/x.py": f"class C:\n{method}"})
    [fault] = sizes.faults(tmp_path, {})
    assert fault.startswith("adapters/x.py:2: C.f has 41 lines of code and 40 are allowed: give ")
    assert sizes.faults(tmp_path, {"adapters/x.py:C.f": "a reason"}) == []


def test_a_file_of_301_lines_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, {"jest_loader/x.py": "\n" * 301, "jest_loader/y.py": "\n" * 300})
    [fault] = sizes.faults(tmp_path, {})
    assert fault.startswith("jest_loader/x.py has 301 lines and 300 are allowed: move ")
    assert sizes.faults(tmp_path, {"jest_loader/x.py": "a reason"}) == []


def test_an_exception_that_nothing_needs_is_a_fault(tmp_path: Path) -> None:
    [fault] = sizes.faults(tmp_path, {"jest_loader/x.py": "a reason"})
    assert fault.startswith("jest_loader/x.py is within its limit: take it off the exceptions")


@pytest.mark.parametrize(
    "back",
    [
        "import jest_loader.a",
        "from jest_loader import a",
        "from jest_loader.a import f",
        "def f():\n    from jest_loader.a import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jest_loader.a import f",
    ],
)
def test_a_circle_is_a_fault_however_it_is_imported(tmp_path: Path, back: str) -> None:
    write(
        tmp_path,
        {
            "jest_loader/__init__.py": "",
            "jest_loader/a.py": "\nfrom jest_loader.adapters import x\n",
            "adapters/x.py": "from jest_loader import b",
            "jest_loader/b.py": back,
        },
    )
    [fault] = circles.faults(tmp_path)
    for step in (
        "jest_loader/a.py:2 imports jest_loader.adapters.x",
        "adapters/x.py:1 imports jest_loader.b",
        f"jest_loader/b.py:{len(back.splitlines())} imports jest_loader.a",
    ):
        assert step in fault


def test_a_name_taken_from_ones_own_folder_closes_a_circle(tmp_path: Path) -> None:
    door = {"jest_loader/c/__init__.py": "from jest_loader.c.d import f"}
    write(tmp_path, {**door, "jest_loader/c/d.py": "from jest_loader.c.e import g"})
    assert circles.faults(tmp_path) == []
    write(tmp_path, {**door, "jest_loader/c/d.py": "from jest_loader.c import f"})
    assert len(circles.faults(tmp_path)) == 1


def test_each_of_two_circles_is_told(tmp_path: Path) -> None:
    files = {"a": "b", "b": "a", "c": "d", "d": "c"}
    write(tmp_path, {f"jest_loader/{a}.py": f"import jest_loader.{b}" for a, b in files.items()})
    assert len(circles.faults(tmp_path)) == 2


def test_the_oldest_versions_are_the_floors() -> None:
    oldest = floors.floors(["fsspec[http]>=2024.6", "qtawesome>=1.4,<2", "jest-loader[clip]"])
    assert list(oldest) == ["fsspec==2024.6", "qtawesome==1.4"]


def test_a_requirement_without_a_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a floor, got 'numpy<3'"):
        list(floors.floors(["numpy<3"]))


def test_a_test_whose_name_has_70_letters_is_a_fault(tmp_path: Path) -> None:
    short, long = (f"test_{'a' * (letters - 5)}" for letters in (69, 70))
    write(tmp_path, {"tests/x.py": f"def {short}(): ...\n\nclass C:\n    def {long}(): ...\n"})
    [fault] = names.faults(tmp_path)
    assert fault.startswith(f"tests/x.py:4: {long} has 70 letters and 69 are allowed: say ")
