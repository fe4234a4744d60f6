"""The examples run as they stand, on icons, with small models."""

import io
import json
import runpy
import sys
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from jest_loader import Embeddings, FrozenReference
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.demo.icons import render
from jest_loader.pack import write_mds
from jest_loader.reference_cache import build
from tests.frameworks.toy import run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Icons as PNGs with their names."""
    rows = []
    for icon in islice(render(["elusive"]), 96):
        file = io.BytesIO()
        Image.fromarray(icon.pixels).convert("RGB").save(file, "PNG")
        rows.append({"image": file.getvalue(), "caption": icon.caption})
    folder = tmp_path_factory.mktemp("icons") / "shards"
    write_mds(folder, {"image": "png", "caption": "str"}, rows)
    return folder


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def tiny_clip(tmp_path):
    """The file of a small model that open_clip knows as tiny-clip."""
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    return config


def test_open_clip_loop(shards, tiny_clip, tmp_path, monkeypatch, capsys):
    words = [shards, "--model=tiny-clip", "--batch-size=8", f"--out={tmp_path / 'run.pt'}"]
    run(monkeypatch, "open_clip_loop.py", *words, "--steps=3")
    assert "step 3: loss" in capsys.readouterr().out
    run(monkeypatch, "open_clip_loop.py", *words, "--steps=5")
    assert torch.load(tmp_path / "run.pt", weights_only=True)["dataset"]["num_steps"] == 5


@pytest.mark.filterwarnings("ignore")
def test_lightning_module(shards, tiny_clip, tmp_path, monkeypatch):
    out = tmp_path / "run"
    words = [shards, "--model=tiny-clip", "--batch-size=8", "--save-every=1", f"--out={out}"]
    for steps in (3, 5):
        run(monkeypatch, "lightning_module.py", *words, f"--steps={steps}")
        saved = torch.load(out / "last.ckpt", weights_only=True)
        assert saved["global_step"] == saved["jest_dataset"]["state"]["num_steps"] == steps


@pytest.fixture
def tiny_siglip(tmp_path):
    """The folder of a small SigLIP model, with what reads its pictures and captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor
    from transformers import SiglipModel as Siglip

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "icon": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = size | {"num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 12}
    vision = size | {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = Siglip(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-5.0)
    for part in (
        model,
        SiglipImageProcessor(size={"height": 16, "width": 16}),
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"),
    ):
        part.save_pretrained(tmp_path / "tiny-siglip")
    return tmp_path / "tiny-siglip"


@pytest.mark.filterwarnings("ignore")
def test_siglip_trainer(shards, tiny_siglip, tmp_path, monkeypatch, offline):
    out = tmp_path / "run"
    words = [shards, f"--model={tiny_siglip}", f"--reference={tiny_siglip}", "--batch-size=8"]
    for steps in (3, 5):
        run(
            monkeypatch, "siglip_trainer.py", *words,
            "--save-every=1", f"--steps={steps}", f"--out={out}",
        )  # fmt: skip
    state = json.loads((out / "checkpoint-5" / "trainer_state.json").read_text())
    saved = torch.load(out / "checkpoint-5" / "jest_dataset.pt", weights_only=True)
    assert state["global_step"] == saved["num_steps"] == 5


SHARDED = """
import json, os, runpy, shutil, sys
from pathlib import Path
import open_clip
import torch.distributed as dist

folder, shards, cache, example = map(Path, sys.argv[1:])
rank = os.environ["RANK"]
open_clip.add_model_config(folder / "tiny-clip.json")
sys.argv = [
    "fsdp2_cached.py", str(shards), str(cache), "--model=tiny-clip", "--batch-size=8",
    "--save-every=2", "--steps=3", f"--out={folder / 'run'}",
]
dist.init_process_group()  # One for both runs: torchrun's store does not begin another.
end = dist.destroy_process_group
dist.init_process_group = dist.destroy_process_group = lambda: None

def run():
    ran = runpy.run_path(str(example), run_name="__main__")
    return [ran["done"], ran["loss"].item(), ran["batch"]["sample_id"].tolist()]

whole = run()
if rank == "0":
    shutil.rmtree(folder / "run/3")
dist.barrier()
(folder / f"rank{rank}.json").write_text(json.dumps([whole, run()]))
end()
"""


@pytest.mark.slow
def test_fsdp2_cached(shards, tiny_clip, tmp_path):
    torch.manual_seed(7)
    reference, _, transform = open_clip.create_model_and_transforms("tiny-clip")
    decode, words = DecodeImages("image", transform=transform), open_clip.get_tokenizer("tiny-clip")

    def embed(model, batch):
        image = model.encode_image(batch["image"], normalize=True)
        text = model.encode_text(words(batch["caption"]), normalize=True)
        return Embeddings(image, text, model.logit_scale.exp())

    source = MdsSource(shards, batch_size=8, shuffle=False, drop_last=False)
    build(tmp_path / "cache", source, FrozenReference(reference, embed, prepare=decode))
    ranks = run_ranks(SHARDED, tmp_path, shards, tmp_path / "cache", EXAMPLES / "fsdp2_cached.py")
    for whole, resumed in ranks:
        assert whole[0] == 0
        assert resumed == [2, *whole[1:]]
    assert not set(ranks[0][0][2]) & set(ranks[1][0][2])
