"""The examples run as they stand, on icons, with small models."""

import io
import json
import runpy
import shutil
import sys
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

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
    torch.manual_seed(0)  # The same random reference, and learner until a saved one is loaded.
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def tiny_clip(tmp_path):
    """The file of a small model that open_clip knows as tiny-clip."""
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    return config


@pytest.fixture
def steps():
    """Grows with each step of any optimizer."""
    done = []
    hook = register_optimizer_step_post_hook(lambda *_: done.append(None))
    yield done
    hook.remove()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_open_clip_loop(shards, tiny_clip, tmp_path, monkeypatch, capsys, steps):
    def states(out, *lengths):
        words = [shards, "--model=tiny-clip", "--batch-size=8", f"--out={tmp_path / out}"]
        for length in lengths:
            run(monkeypatch, "open_clip_loop.py", *words, f"--steps={length}")
        return torch.load(tmp_path / out, weights_only=True)

    whole, resumed = states("whole.pt", 5), states("cut.pt", 3, 5)
    assert "step 3: loss" in capsys.readouterr().out
    assert len(steps) == whole["step"] + 5 == 10
    assert whole["dataset"] == resumed["dataset"]
    assert_equal(whole["model"], resumed["model"])


@pytest.mark.filterwarnings("ignore")
def test_lightning_module(shards, tiny_clip, tmp_path, monkeypatch, steps):
    def states(out, *lengths):
        out = tmp_path / out
        words = [shards, "--model=tiny-clip", "--batch-size=8", "--save-every=1", f"--out={out}"]
        for length in lengths:
            run(monkeypatch, "lightning_module.py", *words, f"--steps={length}")
        return torch.load(out / "last.ckpt", weights_only=True)

    whole, resumed = states("whole", 5), states("cut", 3, 5)
    assert len(steps) == whole["global_step"] + 5 == 10
    assert whole["jest_dataset"] == resumed["jest_dataset"]
    assert_equal(whole["state_dict"], resumed["state_dict"])


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
def test_siglip_trainer(shards, tiny_siglip, tmp_path, monkeypatch, offline, steps):
    words = [shards, f"--model={tiny_siglip}", f"--reference={tiny_siglip}", "--batch-size=8"]
    words += ["--save-every=1", "--steps=5", f"--out={tmp_path / 'run'}"]
    last = tmp_path / "run/checkpoint-5"

    def states():
        run(monkeypatch, "siglip_trainer.py", *words)
        dataset = torch.load(last / "jest_dataset.pt", weights_only=True)
        return dataset, load_file(last / "model.safetensors")

    dataset, whole = states()
    for later in (last, tmp_path / "run/checkpoint-4"):
        shutil.rmtree(later)
    same, resumed = states()
    assert dataset == same
    assert len(steps) == dataset["num_steps"] + 2 == 7
    assert_equal(whole, resumed)


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
