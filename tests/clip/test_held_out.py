"""Held-out data of every form, and the sentences for those that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jest_loader.clip.config.held_out import EvaluationConfig, HeldOutSet, held_out_sets
from jest_loader.clip.evaluation.held_out import read_held_out
from jest_loader.pack import write_mds, write_zarr
from tests.clip_runs import ARCHITECTURE

IMAGE = {"image": "ndarray:uint8:8,8"}


def picture(number: int) -> np.ndarray:
    return np.full((8, 8), number, dtype=np.uint8)


def written(path: Path, columns: dict[str, list], numbers: list[int] | None = None) -> Path:
    """A data set of these columns, whose pictures are all of one grey: their number."""
    size = len(next(iter(columns.values())))
    kinds = {str: "str", int: "int", float: "float64", list: "json"}
    types = {name: kinds[type(values[0])] for name, values in columns.items()}
    rows = (
        {
            "image": picture((numbers or range(size))[row]),
            **{name: values[row] for name, values in columns.items()},
        }
        for row in range(size)
    )
    write = write_mds if "json" in types.values() else write_zarr
    write(path, {**IMAGE, **types}, rows)
    return path


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def greys(images) -> list[int]:
    return [int(value) for block in images for value in block[:, 0, 0, 0]]


def test_distinct_captions_are_the_classes(tmp_path):
    data = written(tmp_path / "data", {"caption": ["b", "a", "b", "c"]})
    found = read_held_out(HeldOutSet(data=data), ARCHITECTURE)
    assert found.classes.names == ("a", "b", "c")
    assert found.classes.label.tolist() == [1, 0, 1, 2]
    assert (found.classes.templates, found.captions) == ((), None)
    assert greys(found.images) == greys(found.images) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "labels",
    [[2, 0, 2], ["2", "0", "2"], ["heart", "a {} bell", "heart"]],
    ids=["numbers", "numbers as text", "names"],
)
@pytest.mark.parametrize("form", ["names.txt", "names.json"])
def test_labels_are_rows_or_names_of_the_file(labels, form, tmp_path):
    names = ["a {} bell", "cart", "heart"]
    file = tmp_path / form
    file.write_text(json.dumps(names) if form == "names.json" else "\n".join(names))
    data = written(tmp_path / "data", {"label": labels})
    templates = text(tmp_path / "templates.txt", "a {}.", "{c}")
    held_out = HeldOutSet(data=data, label_column="label", classes=file, templates=templates)
    found = read_held_out(held_out, ARCHITECTURE)
    assert found.classes.names == tuple(names)
    assert found.classes.label.tolist() == [2, 0, 2]
    assert found.classes.templates == ("a {}.", "{c}")


def test_names_that_are_digits_are_names(tmp_path):
    data = written(tmp_path / "data", {"label": ["1", "0"]})
    classes = text(tmp_path / "names.txt", "1", "0")
    found = read_held_out(
        HeldOutSet(data=data, label_column="label", classes=classes), ARCHITECTURE
    )
    assert found.classes.label.tolist() == [0, 1]


def test_class_numbers_may_share_a_name(tmp_path):
    data = written(tmp_path / "data", {"label": [0, 1]})
    classes = text(tmp_path / "names.txt", "crane", "crane")
    found = read_held_out(
        HeldOutSet(data=data, label_column="label", classes=classes), ARCHITECTURE
    )
    assert found.classes.label.tolist() == [0, 1]


@pytest.mark.parametrize("as_text", [True, False], ids=["text", "json column"])
def test_captions_in_a_list(as_text, tmp_path):
    lists = [["a", "b"], ["c"], ["d", "e", "f"]]
    column = [json.dumps(one) if as_text else one for one in lists]
    data = written(tmp_path / "data", {"captions": column})
    found = read_held_out(HeldOutSet(data=data, caption_list_column="captions"), ARCHITECTURE)
    assert found.classes is None
    assert found.captions.texts == tuple("abcdef")
    assert found.captions.image.tolist() == [0, 0, 1, 2, 2, 2]
    assert greys(found.images) == [0, 1, 2]


@pytest.fixture
def by_rows(tmp_path) -> HeldOutSet:
    """Three pictures of two, three and one rows, which are apart."""
    keys, numbers = ["x", "y", "x", "z", "y", "y"], [10, 20, 10, 30, 20, 20]
    columns = {"key": keys, "caption": list("abcdef"), "label": [0, 1, 0, 0, 1, 1]}
    data = written(tmp_path / "rows", columns, numbers)
    return HeldOutSet(data=data, image_id_column="key")


@pytest.mark.parametrize("block_bytes", [1 << 24, 2 * 64], ids=["a block", "blocks of two"])
def test_captions_in_rows_that_share_a_picture(block_bytes, by_rows, monkeypatch):
    import jest_loader.clip.evaluation.held_out as module

    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    found = read_held_out(by_rows, ARCHITECTURE)
    assert found.captions.texts == tuple("abcdef")
    assert found.captions.image.tolist() == [0, 1, 0, 2, 1, 1]
    assert greys(found.images) == [10, 20, 30]


def test_labels_of_pictures_with_several_rows(by_rows, tmp_path):
    classes = text(tmp_path / "names.txt", "bell", "cart")
    labelled = HeldOutSet(
        data=by_rows.data, image_id_column="key", label_column="label", classes=classes
    )
    found = read_held_out(labelled, ARCHITECTURE)
    assert found.classes.label.tolist() == [0, 1, 0]
    assert found.captions.image.tolist() == [0, 1, 0, 2, 1, 1]


def test_pictures_that_are_many_are_decoded_at_each_pass(by_rows, monkeypatch):
    import jest_loader.clip.evaluation.held_out as module

    kept = read_held_out(by_rows, ARCHITECTURE)
    assert isinstance(kept.images, tuple)
    monkeypatch.setattr(module, "_KEPT_BYTES", 2 * 64)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 2 * 64)
    calls = []
    decode = module._Pictures._decode
    monkeypatch.setattr(
        module._Pictures, "_decode", lambda *args: (calls.append(args), decode(*args))[1]
    )
    found = read_held_out(by_rows, ARCHITECTURE)
    assert not calls
    for passes in (1, 2):
        blocks = list(found.images)
        assert [len(block) for block in blocks] == [2, 1]
        assert torch.equal(torch.cat(blocks), torch.cat(kept.images))
        assert len(calls) == 2 * passes


def refused(message: str, **options) -> None:
    with pytest.raises(ValueError, match=message):
        read_held_out(HeldOutSet(**options), ARCHITECTURE)


def test_data_that_do_not_fit_are_refused_in_a_sentence(tmp_path):
    one = written(tmp_path / "one", {"caption": ["a", "a"], "label": [0, 3], "size": [0.5, 1.0]})
    names = text(tmp_path / "names.txt", "a", "b", "c")
    refused("at least 2 distinct captions, but column .* has 1", data=one)
    refused(
        "among the 3 classes of .*names.txt, numbered from 0, but image 1 of .*one has 3",
        data=one, label_column="label", classes=names,
    )  # fmt: skip
    refused("class numbers with a file of classes, but .* holds 0;", data=one, label_column="label")
    refused("names, or class numbers .* holds 0.5", data=one, label_column="size", classes=names)
    refused("has no column 'kind', it has caption, image, label", data=one, label_column="kind")
    refused("has no column 'title'", data=one, caption_column="title")
    refused("has no column 'photo'", data=one, image_column="photo")
    refused(
        "as text or in a JSON list of texts, but sample 0 of .*one has 'a'",
        data=one,
        caption_list_column="caption",
    )
    lists = written(tmp_path / "lists", {"captions": ['["a"]', "[]"], "key": ["x", "x"]})
    refused(r"at least one caption, .* sample 1 of .* has \[\]", data=lists,
            caption_list_column="captions")  # fmt: skip
    refused("among at least 2 images, .*one has 1", data=one, image_id_column="caption")


@pytest.mark.parametrize(
    ("option", "lines", "message"),
    [
        ("classes", ["a", "", "b"], "class names must not be empty, but number 2 in "),
        ("classes", ["a"], "at least 2 class names, got 1 in "),
        ("classes", ["a", "b", "a"], "class names must differ where labels are names"),
        ("classes", ["a", "c"], r"among the 2 classes of .* but image 1 of .* has 'b'"),
        ("templates", ["a {}", " ", "b {}"], "templates must not be empty, but number 2 in "),
        ("templates", ["a photo"], r"must hold {} where the class name goes, got 'a photo' in"),
        ("templates", ["a photo of {name}"], "must hold {} where the class name goes"),
        ("templates", [""], "templates must not be empty"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_a_sentence(option, lines, message, tmp_path):
    data = written(tmp_path / "data", {"caption": ["a", "b"]})
    refused(message, data=data, **{option: text(tmp_path / "file.txt", *lines)})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("file.json", b'{"a": 1}', "class names in JSON must be a list of texts"),
        ("file.json", b'["a", 1]', "class names in JSON must be a list of texts"),
        ("file.json", b'["a"', "class names must be in UTF-8"),
        ("file.txt", b"caf\xe9\nb", "class names must be in UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name, content, message, tmp_path):
    data = written(tmp_path / "data", {"caption": ["a", "b"]})
    (tmp_path / name).write_bytes(content)
    refused(message, data=data, classes=tmp_path / name)


def test_sets_by_name_lie_beside_their_file(tmp_path):
    sets = {"flowers": {"data": "flowers", "classes": "names.txt", "label_column": "kind"}}
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    config = EvaluationConfig(sets=tmp_path / "sets.json", image_id_column="key")
    found = held_out_sets(Path("test"), "photo", "title", config)
    assert found == {
        "": HeldOutSet(
            data=Path("test"), image_column="photo", caption_column="title", image_id_column="key"
        ),
        "flowers": HeldOutSet(
            data=tmp_path / "flowers", classes=tmp_path / "names.txt", label_column="kind"
        ),
    }
    assert list(held_out_sets(None, "image", "caption", EvaluationConfig(sets=config.sets))) == [
        "flowers"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object of held-out sets by name"),
        ("{}", "must be a JSON object of held-out sets by name"),
        ("{", "must be a JSON file in UTF-8, but is not"),
        ('{"a/b": {"data": "x"}}', "a name without slashes, got 'a/b'"),
        ('{"": {"data": "x"}}', "a name without slashes, got ''"),
        ('{"a": {"classes": "x"}}', "the set 'a' of .* must have data"),
        (
            '{"a": {"data": "x", "label": "y"}}',
            r"among \['caption_column', .* got 'label' = 'y' for 'a'",
        ),
        ('{"a": {"data": "x", "classes": 3}}', "got 'classes' = 3 for 'a'"),
    ],
)
def test_a_file_of_sets_that_is_wrong_is_refused(content, message, tmp_path):
    (tmp_path / "sets.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        held_out_sets(None, "image", "caption", EvaluationConfig(sets=tmp_path / "sets.json"))


def test_options_for_data_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="classes says what held-out data hold, but there are no"):
        held_out_sets(None, "image", "caption", EvaluationConfig(classes=Path("names.txt")))
