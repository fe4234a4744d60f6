"""What a model's description says of its tokenizer or towers runs nothing and fetches nothing."""

import json

import pytest
import torch

from jest_loader.clip.commands.export import export_open_clip
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.models.open_clip_architecture import resolve
from jest_loader.clip.saving.checkpoint import architecture_of

pytest.importorskip("open_clip", reason="open_clip is not installed")

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(autouse=True)
def resolved_anew():
    resolve.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """A tokenizer that names Python of its own, which leaves a file if it is run."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "Planted", "auto_map": {"AutoTokenizer": ["planted.Planted", None]}}
        )
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "planted.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import BertTokenizer\nclass Planted(BertTokenizer):\n    pass\n"
    )
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return folder


def described(folder, text=None, vision=None):
    return {
        "embed_dim": 16,
        "vision_cfg": VISION | (vision or {}),
        "text_cfg": TEXT | {"hf_tokenizer_name": str(folder)} | (text or {}),
    }


def from_folder(folder, model_cfg):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    return resolve(OpenClipConfig(str(folder)))


def from_checkpoint(folder, model_cfg):
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return architecture_of(
        {
            "open_clip": {
                "name": "theirs", "model_cfg": model_cfg, "preprocess_cfg": preprocess,
                "tokenizer_folder": None, "fetch": True, "weights": "theirs.pt",
            },
            "model": dict.fromkeys(range(100), torch.empty(1000)),
        }
    )  # fmt: skip


@pytest.mark.parametrize("architecture", [from_folder, from_checkpoint])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"trust_remote_code": True}, "may set clean, .*, got 'trust_remote_code'"),
        ({"cache_dir": "/"}, "may set clean, .*, got 'cache_dir'"),
        ({}, "needs the tokenizer .* or needs code of its own"),
    ],
)
def test_a_tokenizers_own_code_is_not_run(folder, tmp_path, architecture, kwargs, message):
    pytest.importorskip("transformers", reason="transformers is not installed")
    model_cfg = described(folder, {"tokenizer_kwargs": kwargs})
    with pytest.raises(ValueError, match=message):
        architecture(folder, model_cfg).tokenizer()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("architecture", [from_folder, from_checkpoint])
def test_nothing_is_fetched_for_a_description(folder, architecture):
    pytest.importorskip("transformers", reason="transformers is not installed")
    elsewhere = described(folder, {"hf_tokenizer_name": "someone/something"})
    if architecture is from_checkpoint:
        assert architecture(folder, elsewhere).weights is None
        with pytest.raises(ValueError, match="needs the tokenizer someone/something"):
            architecture(folder, elsewhere).tokenizer()
    tower = {"timm_model_name": "hf-hub:someone/something"}
    with pytest.raises(ValueError, match="a name of timm's own, got 'hf-hub:someone/something'"):
        architecture(folder, described(folder, vision=tower))


def test_options_of_the_text_are_still_taken(folder):
    model_cfg = described(folder, {"hf_tokenizer_name": "", "tokenizer_kwargs": {"clean": "lower"}})
    ids = from_folder(folder, model_cfg).tokenizer()(["Sea"])
    assert ids.shape == torch.Size([1, 8])


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
            "it is no zip file, as torch has written them since release 1.6",
        ),
        (
            lambda weights, path: torch.save(
                weights | {"logit_scale": torch.tensor(torch.nan)}, path
            ),
            "has numbers that are not finite in logit_scale",
        ),
    ],
    ids=["not a zip file", "not finite"],
)
def test_weights_that_are_none_are_refused(folder, save, message):
    described_there = described(folder, {"hf_tokenizer_name": ""})
    inner = from_folder(folder, described_there)._inner()
    save(inner.state_dict(), folder / "weights.pt")
    resolve.cache_clear()
    options = OpenClipConfig(str(folder), checkpoint=folder / "weights.pt")
    with pytest.raises(ValueError, match=message):
        resolve(options).build("softmax", logit_scale=1.0, logit_bias=None)


def test_the_same_weights_in_a_zip_file_are_taken(folder):
    inner = from_folder(folder, described(folder, {"hf_tokenizer_name": ""}))._inner()
    torch.save(inner.state_dict(), folder / "weights.pt")
    resolve.cache_clear()
    options = OpenClipConfig(str(folder), checkpoint=folder / "weights.pt")
    resolve(options).build("softmax", logit_scale=1.0, logit_bias=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "must be a JSON file"),
        ("3", "must be the configuration of a model .* no embed_dim of its kind"),
        ('{"model_cfg": 3}', "no embed_dim of its kind"),
        ('{"model_cfg": {"embed_dim": 8, "vision_cfg": [], "text_cfg": {}}}', "no vision_cfg"),
        ('{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": "x"}}', "no text_cfg"),
        (
            '{"preprocess_cfg":3, "model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}',
            "no preprocess_cfg of",
        ),
    ],
    ids=["deep", "a number", "no object", "a list", "a text", "preprocessing"],
)
def test_a_description_of_other_kinds_is_an_error(folder, content, message):
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        resolve(OpenClipConfig(str(folder)))


@pytest.mark.parametrize(
    "vision",
    [{"layers": "x"}, {"layers": {}}, {"width": None}, {"patch_size": 0}, {"layers": [[]]}],
)
def test_sizes_of_other_kinds_are_an_error(folder, vision):
    architecture = from_folder(folder, described(folder, vision=vision))
    with pytest.raises(ValueError, match=r"open_clip cannot build .*; mend its configuration"):
        architecture.build("softmax", logit_scale=10.0, logit_bias=None)


def test_a_full_disk_is_named_when_a_model_is_exported(tmp_path, full_disk):
    (tmp_path / "tiny.json").write_text(json.dumps(described("", {"hf_tokenizer_name": ""})))
    architecture = resolve(OpenClipConfig(str(tmp_path / "tiny.json")))
    model = architecture.build("softmax", logit_scale=10.0, logit_bias=None)
    with pytest.raises(OSError, match=r"exported cannot be written, .* disk is full; make room"):
        export_open_clip(model, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]
