"""The table of docs/sources.md has no row that no test measures."""

from pathlib import Path

from tests.frameworks.sources import table


def test_each_loader_is_measured():
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in table() if f'"{name}"' not in tests] == []
