"""The pages tell the truth: their Python runs, their commands exist, their links lead somewhere."""

import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]

# Packages of pages that run where these are installed: `make frameworks` makes the places.
NEEDS: dict[str, str] = {
    "docs/frameworks/composer.md": "composer",
    "docs/frameworks/jax.md": "grain",
    "docs/frameworks/ray.md": "ray",
}

FENCED = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>[^\s`]*)[^\n]*\n"
    r"(?P<body>.*?)"
    r"^ *(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)"  # [text](target) and ![text](target)
    r"|^\[[^\]]+\]:\s*(\S+)"  # [name]: target
    r"|(?:src|href)=\"([^\"]+)\"",
    re.MULTILINE,
)
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


class Block(NamedTuple):
    """A fenced block: its language, its body without its indentation, the body's first line."""

    language: str
    body: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            fenced["language"],
            re.sub(rf"^ {{0,{len(fenced['indent'])}}}", "", fenced["body"], flags=re.MULTILINE),
            text.count("\n", 0, fenced.start("body")) + 1,
        )
        for fenced in FENCED.finditer(text)
    ]


def commands_of(body: str) -> Iterator[list[str]]:
    """The words of each simple command typed at a `$` prompt, its program without the folder."""
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            lexer = shlex.shlex(line[2:], posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            command: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(lexer.punctuation_chars):
                    yield command
                    command = []
                elif command or not re.match(r"\w+=", word):
                    command.append(word if command else Path(word).name)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def typed(program: str, blocks: Iterable[Block]) -> list[tuple[str, ...]]:
    """The different commands of the console blocks that run ``program``, each without its name."""
    consoles = (block for block in blocks if block.language == "console")
    commands = itertools.chain.from_iterable(commands_of(block.body) for block in consoles)
    return sorted({tuple(command[1:]) for command in commands if command[:1] == [program]})


ALL_BLOCKS = [block for page in LINKING for block in blocks_of(page)]


@pytest.fixture
def help_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function: what `jest-loader WORDS --help` says, or nothing where it ends with an error."""
    from jest_loader.cli import main

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["jest-loader", *words, "--help"])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main()
        out = capsys.readouterr().out
        # An unknown command with --help gets the help of the program, and status 0.
        is_its_own = out.startswith(" ".join(["usage: jest-loader", *words]) + " ")
        return out if not stopped.value.code and is_its_own else ""

    return run


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if package := NEEDS.get(named(page)):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    # A real module, since dataclasses and pickle look their own up. Ray sends its workers what is
    # defined in a script, and lets them import what is in any other module.
    name = "__main__" if package == "ray" else "page"
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    python = [block for block in blocks_of(page) if block.language == "python"]
    for number, block in enumerate(python, start=1):
        # With the page's name and as many blank lines before it, tracebacks show the page's lines.
        source = "\n" * (block.line - 1) + block.body
        try:
            exec(compile(source, page, "exec"), module.__dict__)
        except Exception as error:
            error.add_note(
                f"in {named(page)}, line {block.line}: python block {number} of {len(python)}"
            )
            raise


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_have_a_language_that_is_checked(page: Path) -> None:
    unchecked = {"", "py", "python3", "pycon", "sh", "bash", "shell"}
    assert [block.line for block in blocks_of(page) if block.language in unchecked] == []


def test_readme_has_python_to_run() -> None:
    assert any(block.language == "python" for block in blocks_of(ROOT / "README.md"))


def test_readme_starts_with_the_two_commands() -> None:
    top = (block for block in blocks_of(ROOT / "README.md") if block.line <= 40)
    assert {("demo",), ("test",)} <= set(typed("make", top))


@pytest.mark.parametrize("arguments", typed("make", ALL_BLOCKS), ids=" ".join)
def test_make_targets_exist(arguments: tuple[str, ...]) -> None:
    targets = {word for word in arguments if not word.startswith("-") and "=" not in word}
    assert targets <= TARGETS


@pytest.mark.parametrize("arguments", typed("jest-loader", ALL_BLOCKS), ids=" ".join)
def test_subcommands_and_options_exist(
    arguments: tuple[str, ...], help_of: Callable[..., str]
) -> None:
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    explained = help_of(*words)
    assert explained, f"`jest-loader {' '.join(words)} --help` ends with an error"
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    unknown = {option for option in options if not re.search(rf"{option}(?![\w-])", explained)}
    assert unknown == set()


def test_unknown_subcommand_is_noticed(help_of: Callable[..., str]) -> None:
    assert help_of("no-such-command") == ""


@pytest.mark.parametrize("page", LINKING, ids=named)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = FENCED.sub("", page.read_text())
    links = {next(filter(None, found)) for found in LINK.findall(prose)}
    local = {link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)} - {""}
    assert {link for link in local if not (page.parent / link).exists()} == set()
