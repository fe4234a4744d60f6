"""What is installed is what is in the tree: the package list, the wheel, a clean environment."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import jest_loader

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = SETUPTOOLS["package-dir"]


def packages_in_tree(folder: Path, name: str) -> Iterator[str]:
    """The names of ``folder`` and of all folders below it, through symlinks, that hold code."""
    if any(folder.glob("*.py")):
        yield name
    for child in folder.iterdir():
        if child.is_dir():
            yield from packages_in_tree(child, f"{name}.{child.name}")


def files_of_package(name: str) -> set[str]:
    """The package's own files as they are named inside a wheel."""
    inside = name.replace(".", "/")
    folder = ROOT / FOLDERS.get(name, inside)
    data = SETUPTOOLS["package-data"].get(name, [])
    return {f"{inside}/{path.name}" for suffix in ("*.py", *data) for path in folder.glob(suffix)}


def run(*command: str | Path, cwd: Path) -> str:
    # PYTHONPATH may name this tree, which would be imported in place of what is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `python -m build` makes: of the source distribution, not of the tree."""
    work = tmp_path_factory.mktemp("wheel")
    tree = work / "tree"  # a copy, since setuptools builds in place and picks up its old builds
    unwanted = shutil.ignore_patterns("__pycache__")
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("jest_loader", "adapters"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=unwanted)
    # Without isolation: the build needs setuptools alone, and a test should need no index.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work, tree, cwd=work)
    (built,) = work.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel and, borrowed from here, what it needs."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    # A folder named in a .pth has its own .pth files ignored, so this tree is not on the path.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (Path(site.strip()) / "borrowed.pth").write_text("\n".join(borrowed))
    return python.parent


def test_package_list_matches_folders() -> None:
    found = list(packages_in_tree(ROOT / "jest_loader", "jest_loader"))
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_mapped_folder_is_linked_into_the_tree(package: str, folder: str) -> None:
    link = ROOT / package.replace(".", "/")
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / folder


def test_all_holds_every_extra_but_dev_and_wandb() -> None:
    """W&B is a service of others: its client comes to those who ask for it."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    held = re.fullmatch(r"jest-loader\[(.*)\]", everything)
    assert held is not None
    assert set(held[1].split(",")) == set(extras) - {"all", "dev", "wandb"}


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.startswith("jest_loader-")}
    expected = set().union(*(files_of_package(name) for name in SETUPTOOLS["packages"]))
    assert names - metadata == expected
    assert {f"{name.replace('.', '/')}/__init__.py" for name in SETUPTOOLS["packages"]} <= names
    assert "jest_loader/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_installed_wheel_imports(clean_bin: Path, tmp_path: Path) -> None:
    program = "import jest_loader, jest_loader.adapters.mds as mds; print(mds.__file__)"
    file = Path(run(clean_bin / "python", "-c", program, cwd=tmp_path).strip())
    assert file.is_relative_to(clean_bin.parent)


def test_installed_wheel_has_its_version(clean_bin: Path, tmp_path: Path) -> None:
    program = "import importlib.metadata as metadata; print(metadata.version('jest-loader'))"
    version = run(clean_bin / "python", "-c", program, cwd=tmp_path).strip()
    assert version == jest_loader.__version__


def test_installed_wheel_has_its_command(clean_bin: Path, tmp_path: Path) -> None:
    assert "usage" in run(clean_bin / "jest-loader", "--help", cwd=tmp_path).lower()
