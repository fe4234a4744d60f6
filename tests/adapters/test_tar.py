"""Tars as a source, on tars that the real tools write."""

import io
import json
import os
import subprocess

import numpy as np
import pytest
import webdataset

from jest_loader.adapters.tar import TarSource
from jest_loader.ragged import RaggedBytes
from jest_loader.testing.conformance import check_source
from tests.adapters.tars import example, write_shards, write_tar

ALL = {"image": "jpg", "caption": "txt", "uid": "json:uid", "n": "json:n:int", "key": "__key__"}


def whole(urls, **options):
    (batch,) = TarSource(urls, batch_size=10_000, shuffle=False, drop_last=False, **options)
    return batch


def test_it_keeps_all_promises_of_a_source(tmp_path):
    write_shards(tmp_path / "shards")
    check_source(
        lambda: TarSource(tmp_path / "shards", batch_size=3, columns=ALL, drop_last=False),
        id_column="sample_id",
        num_rows=33,
    )


def test_columns_hold_what_the_members_do(tmp_path):
    batch = whole(write_shards(tmp_path / "shards"), columns=ALL)
    assert isinstance(batch["image"], RaggedBytes)
    assert batch["image"] == [example(n)[f"{n:09d}.jpg"] for n in range(33)]
    assert batch["caption"] == [f"thing {n} ä" for n in range(33)]
    assert batch["uid"] == [f"u{n}" for n in range(33)]
    assert batch["n"].dtype == np.int64
    assert batch["n"].tolist() == batch["sample_id"].tolist() == [*range(33)]
    assert batch["key"] == [f"{n:09d}" for n in range(33)]
    assert batch["skip_reason"] == [""] * 33


def test_img2dataset_folders_need_no_columns(tmp_path):
    folder = write_shards(tmp_path / "shards")
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text("{}")
    batch = whole(folder)
    assert [*batch] == ["image", "caption", "skip_reason", "sample_id"]
    assert batch["caption"][32] == "thing 32 ä"


def test_without_txt_the_caption_is_that_of_the_json(tmp_path):
    names = [name for name in example(4) if not name.endswith("txt")]
    tar = write_tar(tmp_path / "a.tar", {name: example(4)[name] for name in names})
    assert whole(tar)["caption"] == ["in json 4"]


def test_datacompdr_embeddings_and_synthetic_captions_are_read(tmp_path):
    path = f"{tmp_path}/%05d.tar"
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((6, 2, 8)).astype(np.float16)
    with webdataset.ShardWriter(path, maxcount=3, verbose=0) as writer:
        for n, embedding in enumerate(embeddings):
            file = io.BytesIO()
            np.savez_compressed(file, image_emb=embedding, text_emb=embedding[:1])
            writer.write({
                "__key__": f"{n:08d}", "npz": file.getvalue(), "url.txt": f"http://{n}",
                "syn.json": {"syn_text": [f"first {n}", "second"]}, "paug.json": {"p": [[1]]},
            })  # fmt: skip
    columns = {
        "image_emb": "npz:image_emb", "text_emb": "npz:text_emb", "url": "url.txt",
        "caption": "syn.json:syn_text.0:str",
    }  # fmt: skip
    batch = whole(tmp_path, columns=columns)
    assert batch["image_emb"].dtype == np.float16
    np.testing.assert_array_equal(batch["image_emb"], embeddings)
    np.testing.assert_array_equal(batch["text_emb"], embeddings[:, :1])
    assert batch["url"] == [f"http://{n}" for n in range(6)]
    assert batch["caption"] == [f"first {n}" for n in range(6)]


@pytest.mark.parametrize("tar_format", ["gnu", "pax", "ustar"])
def test_gnu_tar_writes_what_is_read(tmp_path, tar_format):
    folder = "a" * 90 + "/" + "ü" * 20
    deep = tmp_path / "files" / folder
    deep.mkdir(parents=True)
    for n in range(3):
        (deep / f"{n}.png").write_bytes(b"picture %d" % n)
        (deep / f"{n}.TXT").write_text(f"text {n}")
    (deep / "._0.png").write_bytes(b"of a Mac")
    (deep / "README").write_text("no example")
    command = ["tar", "--sort=name", f"--format={tar_format}", "-cf", "../a.tar", "."]
    subprocess.run(command, cwd=tmp_path / "files", check=True)
    batch = whole(tmp_path / "a.tar", columns={"image": "png", "t": "txt", "key": "__key__"})
    assert batch["key"] == [f"{folder}/{n}" for n in range(3)]
    assert batch["image"] == [b"picture %d" % n for n in range(3)]
    assert batch["t"] == [f"text {n}" for n in range(3)]


def test_names_longer_than_a_header_has_room_for(tmp_path):
    subprocess.run(["mkdir", "-p", tmp_path / "f"], check=True)
    name = "n" * 200
    for form in ("gnu", "pax"):
        (tmp_path / "f" / f"{name}.txt").write_text("long")
        command = ["tar", f"--format={form}", "-cf", f"../{form}.tar", f"{name}.txt"]
        subprocess.run(command, cwd=tmp_path / "f", check=True)
        batch = whole(tmp_path / f"{form}.tar", columns={"t": "txt", "key": "__key__"})
        assert (batch["key"], batch["t"]) == ([name], ["long"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its open file
def test_what_webdataset_reads_is_what_is_read(tmp_path):
    with webdataset.TarWriter(f"{tmp_path}/a.tar") as writer:
        for n in range(7):
            writer.write({"__key__": f"x/{n}", "jpg": b"j%d" % n, "txt": f"t {n}", "cls": n})
    theirs = list(webdataset.WebDataset(f"{tmp_path}/a.tar", shardshuffle=False))
    columns = {"image": "jpg", "text": "txt", "class": "cls", "key": "__key__"}
    batch = whole(tmp_path, columns=columns)
    assert batch["key"] == [row["__key__"] for row in theirs]
    assert batch["image"] == [row["jpg"] for row in theirs]
    assert batch["text"] == [row["txt"].decode() for row in theirs]
    assert batch["class"].tolist() == [*range(7)]


def test_the_index_is_kept_and_is_used_again(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "shards")
    before = TarSource(folder, batch_size=4)
    assert sorted(file.name for file in folder.glob("*.index")) == [
        f"{n:05d}.tar.index" for n in range(3)
    ]
    monkeypatch.setattr("jest_loader.adapters.tar.indexing.members", None)
    again = TarSource(folder, batch_size=4)
    assert again.fingerprint() == before.fingerprint()
    assert whole(folder)["caption"][20] == "thing 20 ä"


def test_the_index_is_kept_in_a_folder_that_is_named(tmp_path):
    folder = write_shards(tmp_path / "shards")
    (tmp_path / "kept").mkdir()
    assert len(whole(folder, index=tmp_path / "kept")["caption"]) == 33
    assert not [*folder.glob("*.index")]
    assert len([*(tmp_path / "kept").iterdir()]) == 3


def test_fingerprints_stay_when_a_folder_moves_or_grows(tmp_path):
    folder = write_shards(tmp_path / "shards", num_shards=2)
    first = TarSource(folder, batch_size=4).fingerprint()
    moved = folder.rename(tmp_path / "elsewhere")
    assert TarSource(moved, batch_size=4).fingerprint() == first
    write_shards(moved, num_shards=3)
    grown = TarSource(moved, batch_size=4)
    assert grown.fingerprint(22) == first != grown.fingerprint()


def test_members_that_nobody_asks_for_are_not_read(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "shards", num_shards=1, rows=2000)
    source = TarSource(folder, batch_size=1000, columns={"image": "jpg", "caption": "txt"})
    read = []
    monkeypatch.setattr(
        os, "preadv", lambda fd, pieces, at, real=os.preadv: read.append(at) or real(fd, pieces, at)
    )
    batches = list(source)
    texts = len(read)
    assert 2000 <= texts < 2100  # One for each text, and a few for the index.
    assert batches[0]["image"][7][:2] == b"\xff\xd8"
    assert len(read) == texts + 1


URLS = {
    "a folder": ("shards", 3),
    "a pattern": ("shards/0000[01].tar", 2),
    "a range in braces": ("shards/{00000..00002}.tar", 3),
    "a list in braces": ("shards/{00002,00000}.tar", 2),
    "braces twice": ("sh{ards,ards}/0000{0..0}.tar", None),
    "a list": (["shards/00001.tar", "shards/0000{0,2}.tar"], 3),
}


@pytest.mark.parametrize(("urls", "num_tars"), URLS.values(), ids=URLS)
def test_urls(tmp_path, monkeypatch, urls, num_tars):
    write_shards(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    if num_tars is None:
        with pytest.raises(ValueError, match=r"00000\.tar comes twice"):
            TarSource(urls, batch_size=1)
    else:
        assert TarSource(urls, batch_size=1).num_examples == 11 * num_tars


def test_braces_give_the_order(tmp_path):
    folder = write_shards(tmp_path / "shards")
    batch = whole(f"{folder}/{{00002,00000}}.tar", columns={"key": "__key__"})
    assert batch["key"][0] == "000000022"


def test_npz_arrays_of_another_form_are_bad_rows(tmp_path):
    def saved(array):
        file = io.BytesIO()
        np.savez(file, e=array)
        return file.getvalue()

    arrays = [np.ones(3, np.float16), np.ones(4, np.float16), np.ones(3), np.array([{}, 1, 2])]
    tar = write_tar(tmp_path / "a.tar", {f"{n}.npz": saved(a) for n, a in enumerate(arrays)})
    batch = whole(tar, columns={"e": "npz:e"})
    assert batch["e"].tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    reasons = batch["skip_reason"]
    assert reasons[0] == ""
    assert "must be float16 of (3,) as in the first example, got float16 of (4,)" in reasons[1]
    assert "got float64 of (3,)" in reasons[2]
    assert "an array must be of numbers, got object" in reasons[3]


def test_npy_members_are_read_however_they_are_laid_out(tmp_path):
    def saved(array):
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = [first, first + 1, np.asfortranarray(first + 2), (first + 3).astype(">f4"), first[0]]
    tar = write_tar(tmp_path / "a.tar", {f"{n}.e.npy": saved(a) for n, a in enumerate(arrays)})
    batch = whole(tar, columns={"e": "e.npy"})
    assert batch["e"].dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(batch["e"], [first, first + 1, first + 2, first + 3, first * 0])
    assert [reason != "" for reason in batch["skip_reason"]] == [False] * 4 + [True]


BAD = {
    "no picture": ({"1.txt": b"c"}, "it has no .jpg or .jpeg or .png or .webp"),
    "no text": ({"1.jpg": b"j", "1.json": b"{}"}, "it has no .txt"),
    "no UTF-8": ({"1.jpg": b"j", "1.txt": b"\xff"}, "its .txt at byte 3584 cannot be read: text"),
}


@pytest.mark.parametrize(("members", "reason"), BAD.values(), ids=BAD)
def test_examples_without_what_is_asked_are_named(tmp_path, members, reason):
    good = {"0.jpg": b"j", "0.txt": b"c"}
    batch = whole(write_tar(tmp_path / "a.tar", {**good, **members}))
    assert len(batch["image"]) == len(batch["caption"]) == 2
    assert batch["skip_reason"][0] == ""
    assert batch["skip_reason"][1].startswith(f"example '1' of {tmp_path}/a.tar: {reason}")


JSON = {
    "no object": (b"[1]", "no field uid"),
    "no such field": (b"{}", "no field uid"),
    "an object in the field": (b'{"uid": {}}', "field uid is no text, number, true"),
    "no JSON": (b"{", "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize(("content", "reason"), JSON.values(), ids=JSON)
def test_json_that_lacks_the_field_is_a_bad_row(tmp_path, content, reason):
    tar = write_tar(tmp_path / "a.tar", {"0.json": b'{"uid": null}', "1.json": content})
    batch = whole(tar, columns={"uid": "json:uid"})
    assert batch["uid"] == [None, None]
    assert batch["skip_reason"][0] == ""
    assert reason in batch["skip_reason"][1]


def test_json_values_keep_their_types(tmp_path):
    values = ["a", 1, 1.5, True, None]
    contents = {f"{n}.json": json.dumps({"v": v}).encode() for n, v in enumerate(values)}
    found = whole(write_tar(tmp_path / "a.tar", contents), columns={"v": "json:v"})["v"]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]
