import csv
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import PackConfig, pack, pack_command

Picture = Callable[..., bytes]


def write_csv(path: Path, rows: Iterable[dict[str, str]], delimiter: str = ",") -> Path:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(photos: Path) -> list[dict[str, str]]:
    names = sorted(path.name for path in photos.iterdir())
    return [{"file": name, "caption": f"picture ä {name}", "team": "x"} for name in names]


def read_all(path: Path, source: type[MdsSource] | type[ZarrSource] = MdsSource) -> dict[str, Any]:
    (batch,) = source(path, batch_size=1000, shuffle=False, drop_last=False)
    return batch


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("source", [MdsSource, ZarrSource])
def test_folder_with_csv(
    tmp_path: Path, photos: Path, source: type[MdsSource] | type[ZarrSource]
) -> None:
    captions = write_csv(tmp_path / "captions.csv", rows_of(photos))
    config = PackConfig(
        (photos,),
        tmp_path / "out",
        format="mds" if source is MdsSource else "zarr",
        captions=captions,
        keep_columns=("team",),
    )
    tally = pack(config)
    batch = read_all(config.output, source)
    names = [row["file"] for row in rows_of(photos)]
    assert tally.written == 12
    assert batch["key"] == names
    assert batch["caption"] == [f"picture ä {name}" for name in names]
    assert batch["image"] == [(photos / name).read_bytes() for name in names]
    assert batch["team"] == ["x"] * 12
    assert left_behind(tmp_path) == []


def test_the_marks_of_spreadsheets_and_other_column_names(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.tsv"
    captions.write_text("text\tpath\r\nein Bild\t0.png\r\n", encoding="utf-8-sig")
    pack(
        PackConfig(
            (photos,),
            tmp_path / "out",
            captions=captions,
            file_column="path",
            caption_column="text",
        )
    )
    assert read_all(tmp_path / "out")["caption"] == ["ein Bild"]


def test_folder_with_jsonl(tmp_path: Path, photos: Path) -> None:
    lines = [row | {"width": 16} for row in rows_of(photos)]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    pack(PackConfig((photos,), tmp_path / "out", captions=captions, keep_columns=("width",)))
    batch = read_all(tmp_path / "out")
    assert batch["caption"] == [row["caption"] for row in lines]
    assert batch["width"] == ["16"] * 12


def test_bad_records_are_skipped_counted_and_logged_by_name(
    tmp_path: Path, photos: Path, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "cut.jpeg").write_bytes(picture(9, "JPEG")[:-40])  # Pillow's verify lets it pass
    (photos / "cut.png").write_bytes(picture(9)[:-12])  # Pillow's decoder lets it pass
    (photos / "text.png").write_bytes(b"no picture")
    (photos / "empty.png").write_bytes(b"")
    rows = [
        *rows_of(photos),
        {"file": "nowhere.png", "caption": "c", "team": "x"},
        {"file": "0.png", "caption": " \n", "team": "x"},
        {"file": "0.png", "caption": "another caption", "team": "x"},
        {"file": "0.png", "caption": "another caption", "team": "x"},
        {"file": "", "caption": "c", "team": "x"},
    ]
    captions = write_csv(tmp_path / "captions.csv", rows)
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.5)
    with caplog.at_level(logging.WARNING):
        tally = pack(config)
    assert tally.written == 13
    assert tally.skipped == {
        "no readable JPEG, PNG or WebP image": 4,
        "missing file": 1,
        "empty caption": 1,
        "duplicate": 1,
        "no file name": 1,
    }
    for name in ("cut.jpeg", "cut.png", "text.png", "empty.png", "nowhere.png"):
        assert name in caplog.text
    assert len(read_all(config.output)["key"]) == 13


def test_too_many_skipped_records_are_an_error_and_leave_nothing(
    tmp_path: Path, photos: Path
) -> None:
    rows = [*rows_of(photos), {"file": "nowhere.png", "caption": "c", "team": "x"}]
    config = PackConfig(
        (photos,), tmp_path / "out", captions=write_csv(tmp_path / "captions.csv", rows)
    )
    with pytest.raises(ValueError, match=r"fraction of 0.01 .* 1 skipped \(1 missing file\)"):
        pack(config)
    assert not config.output.exists()
    assert left_behind(tmp_path) == []


def test_a_hundred_skipped_in_a_row_end_it_early(tmp_path: Path, photos: Path) -> None:
    rows = [{"file": f"no{n}.png", "caption": "c"} for n in range(150)]
    rows += [{"file": "0.png", "caption": f"c{n}"} for n in range(600)]
    captions = write_csv(tmp_path / "captions.csv", rows)
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.9)
    with pytest.raises(ValueError, match=r"100 records in a row .* no99.png"):
        pack(config)


def test_a_hundred_skipped_not_in_a_row_do_not(tmp_path: Path, photos: Path) -> None:
    rows = [
        {"file": "0.png" if n % 90 == 0 else f"no{n}.png", "caption": f"c{n}"} for n in range(181)
    ]
    captions = write_csv(tmp_path / "captions.csv", rows)
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.99)
    assert pack(config).skipped == {"missing file": 178}


def test_nothing_usable_is_an_error_whatever_the_budget(tmp_path: Path, photos: Path) -> None:
    captions = write_csv(tmp_path / "captions.csv", [{"file": "no.png", "caption": "c"}])
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=1)
    with pytest.raises(ValueError, match="at least one record"):
        pack(config)


def test_captions_in_another_encoding(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption\n0.png,Bär\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"UTF-8.*captions.csv.*0xe4.*iconv"):
        pack(PackConfig((photos,), tmp_path / "out", captions=captions))


def test_malformed_json_lines_are_skipped(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"file": "0.png", "caption": "c"}\n{"file": "3.p\n[]\n{"caption": "d"}\n')
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.9)
    assert pack(config).skipped == {"not a JSON object": 2, "no file name": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"file_column": "path"},
            r"columns \['path', 'caption'\], got \['file', 'caption', 'team'\]",
        ),
        ({"keep_columns": ("width",)}, "width"),
        ({"keep_columns": ("image",)}, "--keep-columns must differ"),
        ({"keep_columns": ("sample_id",)}, "--keep-columns must differ from .*'sample_id'"),
        ({"keep_columns": ("team", "team")}, "--keep-columns must differ"),
        ({"max_skipped_fraction": 1.5}, "from 0 to 1"),
        ({"captions": Path("captions.xlsx")}, "captions must be a file"),
        ({"captions": None}, "input must be WebDataset tars"),
        ({"input": ()}, "one folder of pictures"),
        ({"output": Path()}, "must not hold the input"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("captions.csv"), rows_of(photos))
    options: dict[str, Any] = {
        "input": (Path("photos"),),
        "output": Path("out"),
        "captions": Path("captions.csv"),
    }
    with pytest.raises(ValueError, match=message):
        pack(PackConfig(**(options | changes)))


def test_the_command_shows_a_bar_and_one_line_of_counts(
    tmp_path: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [*rows_of(photos), {"file": "no.png", "caption": "c", "team": "x"}]
    captions = write_csv(tmp_path / "captions.csv", rows)
    pack_command(
        PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.5)
    )
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}: 12 written, 1 skipped (1 missing file)\n"
    assert "13/13" in printed.err
    assert "skipped no.png" in caplog.text


def test_an_unbalanced_quote_does_not_swallow_the_lines_after_it(
    tmp_path: Path, photos: Path
) -> None:
    captions = tmp_path / "captions.csv"
    names = [row["file"] for row in rows_of(photos)]
    captions.write_text(
        "file,caption\n" + "".join(f'{name},"{name}"\n' for name in names) + f'{names[0]},"cut\n'
    )
    config = PackConfig((photos,), tmp_path / "out", captions=captions)
    with pytest.raises(
        ValueError, match=r"lines? 14 .*captions.csv is not: unexpected end of data"
    ):
        pack(config)


def test_commas_that_are_not_quoted_do_not_cut_a_caption(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.csv"
    names = [row["file"] for row in rows_of(photos)]
    lines = [f"{name},picture {name}" for name in names] + [f"{names[0]},a,red,car"]
    captions.write_text("\n".join(["file,caption", *lines]) + "\n")
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.1)
    tally = pack(config)
    assert str(tally) == "12 written, 1 skipped (1 more fields than the header (quote commas))"


def test_columns_of_one_name_are_refused(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption,caption\n0.png,a,b\n")
    with pytest.raises(ValueError, match=r"must differ, got .*; rename one"):
        pack(PackConfig((photos,), tmp_path / "out", captions=captions))


def test_odd_names_and_captions_are_skipped_by_name(tmp_path: Path, photos: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    good = [json.dumps(row) for row in rows_of(photos)]
    odd = [
        '{"file": "0.png", "caption": "half a \\ud800 character"}',
        '{"file": "nul\\u0000.png", "caption": "a"}',
        json.dumps({"file": "long" * 100 + ".png", "caption": "a"}),
    ]
    captions.write_text("\n".join(good + odd) + "\n")
    config = PackConfig((photos,), tmp_path / "out", captions=captions, max_skipped_fraction=0.3)
    tally = pack(config)
    assert tally.written == 12
    assert "half a character" in str(tally)
    assert str(tally).count("unreadable file") == 2


def test_a_link_is_replaced_by_replacing_what_it_leads_to(tmp_path: Path, photos: Path) -> None:
    captions = write_csv(tmp_path / "captions.csv", rows_of(photos))
    pack(PackConfig((photos,), tmp_path / "real", captions=captions))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    pack(PackConfig((photos,), tmp_path / "link", captions=captions, overwrite=True))
    assert (tmp_path / "link").is_symlink()
    assert len(read_all(tmp_path / "real")["caption"]) == 12
    assert left_behind(tmp_path) == []


def test_folds_left_out_are_disjoint_and_make_a_whole(tmp_path: Path, photos: Path) -> None:
    captions = write_csv(tmp_path / "captions.csv", rows_of(photos))
    keys = []
    for fold in range(3):
        config = PackConfig((photos,), tmp_path / f"{fold}", captions=captions, leave_out=(fold, 3))
        tally = pack(config)
        keys.append(set(read_all(config.output)["key"]))
        assert tally.written + tally.left_out == tally.num_records == 12
        assert str(tally).endswith(f"0 skipped, {tally.left_out} left out")
    everything = {row["file"] for row in rows_of(photos)}
    left_out = [everything - kept for kept in keys]
    assert set.union(*left_out) == everything
    assert sum(map(len, left_out)) == 12


def test_the_fold_of_a_picture_depends_on_its_bytes_alone(tmp_path: Path, photos: Path) -> None:
    captions = write_csv(tmp_path / "captions.csv", rows_of(photos))
    first = PackConfig((photos,), tmp_path / "first", captions=captions, leave_out=(0, 2))
    pack(first)
    kept = set(read_all(first.output)["image"])
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(photos.iterdir(), reverse=True)):
        path.rename(renamed / f"{number:02}{path.suffix}")
    captions = write_csv(tmp_path / "renamed.csv", rows_of(renamed))
    again = PackConfig((renamed,), tmp_path / "again", captions=captions, leave_out=(0, 2))
    pack(again)
    assert set(read_all(again.output)["image"]) == kept


@pytest.mark.parametrize(
    ("fold", "which"),
    [((2, 2), "first number, a fold counted from 0"), ((-1, 2), "first"), ((0, 1), "second")],
)
def test_a_fold_that_cannot_be_is_refused(
    tmp_path: Path, photos: Path, fold: tuple[int, int], which: str
) -> None:
    captions = write_csv(tmp_path / "captions.csv", rows_of(photos))
    with pytest.raises(ValueError, match=rf"--leave-out's {which}.* must be a whole number"):
        pack(PackConfig((photos,), tmp_path / "out", captions=captions, leave_out=fold))
