"""Models of open_clip in the trainer, against open_clip itself; nothing here reads the network."""

import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from jest_loader.clip.commands.cache import CacheConfig, VerifyConfig, cache_command, verify_command
from jest_loader.clip.commands.export import ExportConfig, export_command
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.loading.columns import tokenize_and_decode
from jest_loader.clip.models.open_clip_architecture import resolve
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.cost.shapes import KNOWN_MODELS
from jest_loader.pack import write_mds
from tests.clip_runs import MODEL

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip
TIMM = {
    **TINY,
    "init_logit_bias": -10,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit2", "timm_pool": "avg"},
    "text_cfg": {**TINY["text_cfg"], "no_causal_mask": True, "pool_type": "last"},
}
SIGLIP = {
    **TIMM, "vision_cfg": {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224"}
}  # fmt: skip
SQUASHED = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Configurations of tiny models, and packed pictures of two colours in several sizes."""
    folder = tmp_path_factory.mktemp("open_clip")
    for name, model_cfg in (("tiny", TINY), ("timm", TIMM), ("siglip", SIGLIP)):
        (folder / f"{name}.json").write_text(json.dumps(model_cfg))
    squashed = {"model_cfg": TINY, "preprocess_cfg": SQUASHED}
    (folder / "squashed.json").write_text(json.dumps(squashed))
    rows = ({"image": picture(row), "caption": caption(row)} for row in range(48))
    write_mds(folder / "data", {"image": "bytes", "caption": "str"}, rows)
    return folder


def caption(row: int) -> str:
    return "a scarlet thing" if row % 2 else "the navy sea"


def picture(row: int) -> bytes:
    pixels = np.random.default_rng(row).integers(0, 60, (40 + row, 56, 3), dtype=np.uint8)
    pixels[..., 0 if row % 2 else 2] += 190
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def architecture(folder, name="tiny"):
    return resolve(OpenClipConfig(str(folder / f"{name}.json")))


def built(folder, name="tiny", loss="sigmoid", seed=0):
    torch.manual_seed(seed)
    return architecture(folder, name).build(loss, logit_scale=10.0, logit_bias=-5.0)


def config_for(folder, out, **changes) -> TrainConfig:
    config = TrainConfig(
        DataConfig(folder / "data", test=folder / "data", batch_size=8, augment=False),
        out,
        open_clip=OpenClipConfig(str(folder / "tiny.json")),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2),
        steps=4,
        device="cpu",
        eval_every=100,
        checkpoint_every=2,
    )
    return replace(config, **changes)


@pytest.mark.parametrize("name", ["tiny", "squashed"])
def test_pixels_are_those_of_open_clip(folder, name):
    """Resized to the same bytes, and normalised to the same floats but for rounding."""
    transform = pytest.importorskip("open_clip.transform")
    model = built(folder, name)
    cfg = transform.PreprocessCfg(size=32, **(SQUASHED if name == "squashed" else {}))
    theirs = transform.image_transform_v2(cfg, is_train=False)
    encoded = [picture(row) for row in range(8)]
    columns = {"image": encoded, "caption": ["x"] * 8, "sample_id": np.arange(8)}
    ours = tokenize_and_decode(DataConfig(Path("unused")), model.config)(columns)["image"]
    seen = []
    model.image_tower.visual.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.embed_image(ours)
    expected = torch.stack([theirs(Image.open(io.BytesIO(one))) for one in encoded])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_siglip_models_see_pixels_as_they_were_trained_to():
    """Open_clip takes these from the tag, which a local file of weights has not."""
    found = resolve(OpenClipConfig("ViT-B-16-SigLIP2")).preprocess_cfg
    assert (found["mean"], found["resize_mode"], found["size"]) == ((0.5,) * 3, "squash", 224)
    assert resolve(OpenClipConfig("ViT-B/32")).preprocess_cfg["resize_mode"] == "shortest"


@pytest.mark.parametrize("patch_size", [4, 16])
def test_other_patch_sizes_are_those_of_a_model_resampled_by_timm(folder, patch_size):
    from timm.layers import (  # type: ignore[attr-defined]
        resample_abs_pos_embed,
        resample_patch_embed,
    )

    model = built(folder)
    state = model.open_clip_state()
    grid = 32 // patch_size
    state["visual.conv1.weight"] = resample_patch_embed(
        state["visual.conv1.weight"], [patch_size, patch_size]
    )
    state["visual.positional_embedding"] = resample_abs_pos_embed(
        state["visual.positional_embedding"][None], [grid, grid], num_prefix_tokens=1
    )[0]
    other = json.loads(json.dumps(TINY))
    other["vision_cfg"]["patch_size"] = patch_size
    expected = open_clip.CustomTextCLIP(**other, init_logit_bias=0.0)
    expected.load_state_dict(state)
    image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    pixels = (image / 255 - model.image_tower.mean) / model.image_tower.std
    with torch.no_grad():
        torch.testing.assert_close(
            model.embed_image(image, patch_size),
            expected.encode_image(pixels, normalize=True),
            rtol=0,
            atol=2e-5,
        )


@pytest.mark.parametrize("name", ["timm", "siglip"])
def test_towers_of_timm_run_at_other_resolutions_and_learn_from_them(folder, name):
    """One that resizes its positions itself, and one whose positions are put in its place."""
    model = built(folder, name)
    size = model.config.image_size
    image = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    tower = model.image_tower
    trunk = tower.visual.trunk
    with torch.no_grad():
        assert torch.equal(model.embed_image(image), model.embed_image(image, 16, size))
    model.embed_image(image, 32)[:, 0].sum().backward()
    for parameter in (trunk.pos_embed, trunk.patch_embed.proj.weight):
        assert parameter.grad.abs().max() > 0
    pixels = (image / 255 - tower.mean) / tower.std
    halved = interpolate(pixels, (size // 2, size // 2), mode="bicubic", antialias=True)
    with torch.no_grad():
        found = model.embed_image(image, image_size=size // 2), model.embed_image(image, 32)
        for kind, seen in (({"img_size": size // 2}, halved), ({"patch_size": (32, 32)}, pixels)):
            other = deepcopy(tower.visual)
            other.trunk.set_input_size(**kind)  # Timm's own, which resizes weights in place.
            expected = normalize(other(seen), dim=1)
            torch.testing.assert_close(found["patch_size" in kind], expected, rtol=0, atol=1e-4)


def test_a_size_that_no_image_has_is_refused(folder):
    model = built(folder)
    size = model.config.image_size
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    for wrong in (0, 2 * size):
        with pytest.raises(ValueError, match=rf"from 1 to .* got {wrong} and {size}"):
            model.embed_image(image, image_size=wrong)


def test_flops_are_those_of_the_cost_model_and_fall_with_the_resolution(folder):
    known = KNOWN_MODELS["ViT-B-32"].forward_flops
    assert resolve(OpenClipConfig("ViT-B-32")).forward_flops() == pytest.approx(known, rel=0.015)
    tiny = architecture(folder)
    full, patch, image = (tiny.forward_flops(*at) for at in ((), (16,), (None, 16)))
    assert max(patch, image) < full / 2


@pytest.mark.parametrize(("name", "low"), [("tiny", (16, None)), ("timm", (32, None))])
def test_gradients_are_the_same_with_checkpointed_activations(folder, name, low):
    size = architecture(folder, name).image_size
    batch = {
        "image": torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8),
        "text": architecture(folder, name).tokenizer()(["a", "b", "c", "d"]),
    }
    grads = []
    for checkpointed in (False, True):
        model = built(folder, name)
        if checkpointed:
            model.checkpoint_activations()
        found = model(batch, *low, first=2)
        (found.image * found.text).sum().backward()
        grads.append([p.grad for p in model.tower_parameters() if p.grad is not None])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-7)
    assert len(grads[0]) > 20


def test_a_run_trains_resumes_and_is_exported_to_open_clip(folder, tmp_path, monkeypatch):
    """Joint selection with a reference, half of it at a low resolution; then all by itself."""
    train(config_for(folder, tmp_path / "reference", steps=3))
    selection = SelectionConfig(
        "joint", filter_ratio=0.5, num_chunks=2, score_patch_size=16, low_resolution_fraction=0.5,
        reference_checkpoint=tmp_path / "reference" / "checkpoint.pt",
    )  # fmt: skip
    config = config_for(folder, tmp_path / "run", selection=selection)
    whole = train(config)
    stopped = replace(config, out=tmp_path / "stopped")
    import jest_loader.clip.train as module

    step, calls = module._train_step, iter(range(100))

    def until_the_third(run, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(module, "_train_step", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(module, "_train_step", step)
    resumed = train(stopped)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name

    said = export_command(ExportConfig(tmp_path / "run", tmp_path / "exported"))
    assert f"'local-dir:{tmp_path / 'exported'}'" in said
    compare_with_open_clip(whole.model, tmp_path / "exported", folder)
    # The folder is a model to train, too, and a reference to cache.
    again = resolve(OpenClipConfig(str(tmp_path / "exported"))).build(
        "sigmoid", logit_scale=1, logit_bias=0
    )
    assert torch.equal(again.logit_bias, whole.model.logit_bias)


def compare_with_open_clip(model, exported, folder):
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    encoded = [picture(row) for row in range(6)]
    columns = {"image": encoded, "caption": [caption(r) for r in range(6)]}
    batch = tokenize_and_decode(DataConfig(folder), model.config)(
        {**columns, "sample_id": np.arange(6)}
    )
    pixels = torch.stack([preprocess(Image.open(io.BytesIO(one))) for one in encoded])
    with torch.no_grad():
        ours = model.eval().embed(batch)
        image, text, scale, *bias = theirs.eval()(pixels, tokenizer(columns["caption"]))
    assert ((ours.image * image).sum(1) > 1 - 1e-5).all()
    assert ((ours.text * text).sum(1) > 1 - 1e-5).all()
    assert scale == ours.logit_scale
    assert bias == ([] if ours.logit_bias is None else [ours.logit_bias])


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["tiny", "timm"])
def test_a_model_has_a_bias_where_its_loss_has_one(folder, tmp_path, name, loss, caplog):
    model = built(folder, name, loss)
    assert f"{name}.json starts from random weights" in caplog.text
    assert (model.logit_bias is None) == (loss == "softmax")
    assert model.log_scale.exp().item() == pytest.approx(10.0)
    from jest_loader.clip.commands.export import export_open_clip

    export_open_clip(model, tmp_path / "exported")
    compare_with_open_clip(model, tmp_path / "exported", folder)
    weights = tmp_path / "exported" / "open_clip_model.safetensors"
    options = OpenClipConfig(str(folder / f"{name}.json"), checkpoint=weights)
    caplog.clear()
    loaded = resolve(options).build("sigmoid", logit_scale=99.0, logit_bias=-3.0)
    assert caplog.text == ""
    assert loaded.log_scale.exp().item() == pytest.approx(10.0)
    assert loaded.logit_bias.item() == (-5.0 if loss == "sigmoid" else -3.0)
    if loss == "softmax":
        with pytest.raises(ValueError, match=r"needs a logit bias, which the weights of .* not"):
            resolve(options).build("sigmoid", logit_scale=1.0, logit_bias=None)


def test_a_folder_of_open_clip_is_a_reference_live_and_cached(folder, tmp_path):
    from jest_loader.clip.commands.export import export_open_clip

    export_open_clip(built(folder), tmp_path / "exported")
    options = OpenClipConfig(str(tmp_path / "exported"))
    made = cache_command(
        CacheConfig(data=folder / "data", out=tmp_path / "cache", open_clip=options, device="cpu")
    )
    assert made.endswith("48 examples, 0 of them missing, embeddings of width 16")
    verify_command(VerifyConfig(cache=tmp_path / "cache", open_clip=options))
    export_open_clip(built(folder, seed=1), tmp_path / "other")
    other = OpenClipConfig(str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"the model of .* and here it is"):
        verify_command(VerifyConfig(cache=tmp_path / "cache", open_clip=other))
    joint = SelectionConfig("joint", filter_ratio=0.5, num_chunks=2)
    chosen = []
    for selection in (
        replace(joint, reference_cache=tmp_path / "cache"),
        replace(joint, reference_open_clip=options),
    ):
        run = train(
            config_for(folder, tmp_path / f"run{len(chosen)}", selection=selection, steps=1)
        )
        chosen.append(run.loader.stats.score)
        assert (run.cost.reference > 0) == (selection.reference_cache is None)
    assert chosen[0] == pytest.approx(chosen[1], abs=0.05)
    others = config_for(
        folder,
        tmp_path / "other",
        selection=replace(joint, reference_cache=tmp_path / "cache"),
        open_clip=OpenClipConfig(str(folder / "squashed.json")),
    )
    with pytest.raises(ValueError, match=r"preprocessing of .* by open_clip .*squash"):
        train(others)
    with pytest.raises(ValueError, match=r"preprocessing is 3 x 32 x 32 by open_clip .* and 1 x 8"):
        train(
            config_for(
                folder, tmp_path / "bundled", selection=replace(joint, reference_open_clip=options),
                open_clip=OpenClipConfig(), model=MODEL,
            )
        )  # fmt: skip


def test_a_tokenizer_of_hugging_face_is_taken_from_a_folder(folder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: row for row, word in enumerate(["<pad>", "<unk>", "a", "the", "sea", "navy"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "tokenizer")
    text_cfg = {**TIMM["text_cfg"], "hf_tokenizer_name": "someone/something", "vocab_size": 6}
    (tmp_path / "siglip.json").write_text(json.dumps({**TIMM, "text_cfg": text_cfg}))
    options = OpenClipConfig(str(tmp_path / "siglip.json"), tokenizer=tmp_path / "tokenizer")
    model = resolve(options).build("sigmoid", logit_scale=10.0, logit_bias=-5.0)
    assert model.config.tokenizer()(["the navy sea"]).tolist() == [[3, 5, 4, 0, 0, 0, 0, 0]]
    from jest_loader.clip.commands.export import export_open_clip

    export_open_clip(model, tmp_path / "exported")
    compare_with_open_clip(model, tmp_path / "exported", folder)
    with pytest.raises(ValueError, match=r"needs the tokenizer someone/something, which is not on"):
        resolve(replace(options, tokenizer=None)).tokenizer()


def cfg_with(folder, text=None, **changes):
    path = folder / "other.json"
    path.write_text(
        json.dumps({**TINY, **changes, "text_cfg": {**TINY["text_cfg"], **(text or {})}})
    )
    resolve.cache_clear()
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: resolve(OpenClipConfig("ViT-B-23")), "a model of open_clip, .* near it"),
        (lambda _: resolve(OpenClipConfig("coca_ViT-B-32")), "is a captioning model"),
        (lambda _: resolve(OpenClipConfig("roberta-ViT-B-32")), "text tower is of Hugging Face"),
        (lambda _: resolve(OpenClipConfig("none.json")), "none.json must be a JSON file"),
        (lambda f: resolve(OpenClipConfig(str(f / "data"))), "open_clip_config.json must be"),
        (lambda _: resolve(OpenClipConfig("ViT-B-32", pretrained="x")), "a tag of .*, got 'x'"),
        (
            lambda _: resolve(OpenClipConfig("ViT-B-32", pretrained="openai")),
            "another kind of GELU; set the open_clip model's name to ViT-B-32-quickgelu",
        ),
        (
            lambda f: resolve(OpenClipConfig(cfg_with(f, text={"vocab_size": 99}))).tokenizer(),
            "must know all ids of its tokenizer, got 99 for 49408",
        ),
        (
            lambda f: resolve(OpenClipConfig(cfg_with(f, embed=3))).empty("sigmoid"),
            "open_clip cannot build .*unexpected keyword argument 'embed'",
        ),
        (
            lambda f: resolve(
                OpenClipConfig(str(f / "tiny.json"), checkpoint=f / "tiny.json")
            ).build("sigmoid", logit_scale=1.0, logit_bias=0.0),
            "tiny.json must hold weights of .* without unpickling objects, but open_clip cannot",
        ),
        (
            lambda f: resolve(
                OpenClipConfig(str(f / "tiny.json"), checkpoint=f / "absent.pt")
            ).build("sigmoid", logit_scale=1.0, logit_bias=0.0),
            "no weights at .*absent.pt",
        ),
        (
            lambda _: resolve(OpenClipConfig("RN50")).forward_flops(32),
            "by a ViT with learned positions, and ModifiedResNet is none",
        ),
        (lambda _: OpenClipConfig(tokenizer=Path("x")), "no effect without its name"),
        (
            lambda _: OpenClipConfig("ViT-B-32", checkpoint=Path("x"), pretrained="y"),
            "both name weights; set one",
        ),
        (
            lambda f: CacheConfig(
                data=f, out=f, checkpoint=f / "x.pt", open_clip=OpenClipConfig("ViT-B-32")
            ),
            "a cache is of one reference; set checkpoint, open_clip.name or folds",
        ),
        (
            lambda f: CacheConfig(data=f, out=f),
            "set one of checkpoint, open_clip.name, folds and from",
        ),
        (
            lambda f: cache_command(
                CacheConfig(
                    data=f / "data", out=f / "c", open_clip=OpenClipConfig(str(f / "tiny.json"))
                )
            ),
            "a reference must be trained, but .*tiny.json comes without weights",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_a_sentence(folder, make, message):
    with pytest.raises(ValueError, match=message):
        make(folder)


def test_a_run_whose_configuration_file_is_gone_still_has_its_model(folder, tmp_path):
    (tmp_path / "gone.json").write_text(json.dumps(TINY))
    options = OpenClipConfig(str(tmp_path / "gone.json"))
    run = train(config_for(folder, tmp_path / "run", open_clip=options, steps=1))
    (tmp_path / "gone.json").unlink()
    resolve.cache_clear()
    model = checkpoint.load_model(tmp_path / "run" / "checkpoint.pt")
    tokens = model.config.tokenizer()(["the navy sea"])
    assert torch.equal(model.embed_text(tokens), run.model.eval().embed_text(tokens))


def test_planted_objects_in_weights_are_not_run(folder, tmp_path):
    class Planted:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": Planted()}, tmp_path / "weights.pt")
    options = OpenClipConfig(str(folder / "tiny.json"), checkpoint=tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="without unpickling objects"):
        resolve(options).build("sigmoid", logit_scale=1.0, logit_bias=0.0)
    assert not (tmp_path / "ran").exists()
