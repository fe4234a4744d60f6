"""One patch kernel at several sizes: PI-resize against its definition, against timm, and in use."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, normalize

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models import flexi
from jest_loader.clip.models.flexi import resize_image, resize_kernel, resize_positions
from jest_loader.clip.models.towers import TwoTower

CONFIG = ModelConfig(
    image_size=32, vision_width=32, vision_depth=1, text_width=32, text_depth=1, embed_dim=16
)
SIZES = [(4, 8), (8, 12), (14, 16), (16, 32), (8, 4), (16, 10)]


def kernel_of(patch_size, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 5, patch_size, dtype=dtype).weight


def resized(image, height, width):
    return interpolate(image, (height, width), mode="bicubic", antialias=True)


def pairs(size):
    torch.manual_seed(1)
    image = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    return {"image": image, "text": torch.randint(1, 99, (size, 8))}


@pytest.mark.parametrize(("old", "new"), [sizes for sizes in SIZES if sizes[0] < sizes[1]])
def test_a_resized_kernel_sees_in_a_resized_patch_what_it_saw_before(old, new):
    """The defining property of PI-resize, for larger patches."""
    kernel, patches = kernel_of(old), torch.randn(7, 3, old, old, dtype=torch.float64)
    found = conv2d(resized(patches, new, new), resize_kernel(kernel, new))
    torch.testing.assert_close(found, conv2d(patches, kernel), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_kernels_are_resized_by_the_pseudo_inverse_over_all_pixels(old, new):
    basis = torch.eye(old**2, dtype=torch.float64).view(-1, 1, old, old)
    resize = resized(basis.expand(-1, 3, -1, -1), new, new)[:, 0].flatten(1)
    kernel = kernel_of(old)
    expected = (kernel.flatten(2) @ torch.linalg.pinv(resize).T).view(5, 3, new, new)
    torch.testing.assert_close(resize_kernel(kernel, new), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_kernels_are_those_of_timm(old, new):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    kernel = kernel_of(old, torch.float32)
    expected = layers.resample_patch_embed(kernel, [new, new])
    torch.testing.assert_close(resize_kernel(kernel, new), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (9, 9), (4, 8)])
def test_positions_are_interpolated_as_an_image(rows, columns):
    positions = torch.randn(36, 10, dtype=torch.float64)
    image = positions.T.reshape(1, 10, 6, 6)
    expected = resized(image, rows, columns).flatten(2)[0].T
    torch.testing.assert_close(resize_positions(positions, rows, columns), expected)


def test_gradients_reach_the_master_kernel_and_positions():
    kernel = kernel_of(4)
    assert torch.autograd.gradcheck(
        lambda k: resize_kernel(k, 6), kernel.detach()[:1, :1].requires_grad_()
    )
    model = TwoTower(CONFIG)
    model.embed(pairs(3), 16).image[:, 0].sum().backward()
    for parameter in (model.image_tower.patches.weight, model.image_tower.positions):
        assert parameter.grad.abs().max() > 0
        assert torch.isfinite(parameter.grad).all()


def test_resampling_is_in_fp32_under_autocast():
    for dtype in (torch.float32, torch.bfloat16):
        kernel, positions = kernel_of(8).to(dtype), torch.randn(16, 6).to(dtype)
        expected = resize_kernel(kernel.float(), 16), resize_positions(positions.float(), 2, 2)
        with torch.autocast("cpu", torch.bfloat16):
            found = resize_kernel(kernel, 16), resize_positions(positions, 2, 2)
        assert [tensor.dtype for tensor in found] == [torch.float32] * 2
        assert all(map(torch.equal, found, expected))


def test_pseudo_inverses_are_made_once_and_are_no_part_of_a_checkpoint(monkeypatch):
    model, calls, pinv = TwoTower(CONFIG), [], torch.linalg.pinv
    keys = set(model.state_dict())
    monkeypatch.setattr(torch.linalg, "pinv", lambda matrix: calls.append(1) or pinv(matrix))
    flexi._cached_matrix.cache_clear()
    with torch.inference_mode():
        model.embed(pairs(2), 16)
    model.embed(pairs(2), 16).image.sum().backward()  # Of what inference made, training can use.
    model.embed(pairs(2), 4)
    assert len(calls) == 2
    assert set(model.state_dict()) == keys
    assert "image_tower.patches.weight" in keys


def test_at_its_own_resolution_it_is_a_plain_vit_to_the_bit():
    model, image = TwoTower(CONFIG), pairs(5)["image"]
    tower = model.image_tower
    tokens = tower.patches(image / 127.5 - 1).flatten(2).mT + tower.positions
    for block in tower.blocks:
        tokens = block(tokens)
    expected = normalize(tower.project(tower.norm(tokens).mean(dim=1)), dim=1)
    assert torch.equal(model.embed_image(image), expected)
    assert torch.equal(model.embed_image(image, 8, 32), expected)


def test_patches_twice_as_large_in_a_larger_image_are_the_same():
    """Whole model: each patch enlarged by itself, the grid and thus the positions as they were."""
    model = TwoTower(CONFIG).double()
    image = pairs(3)["image"].double()
    patches = image.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 3, 4 * 4, 8, 8).transpose(1, 2)
    large = resized(patches.reshape(-1, 3, 8, 8), 16, 16).view(-1, 4, 4, 3, 16, 16)
    enlarged = large.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 64, 64)
    torch.testing.assert_close(model.embed_image(enlarged, 16), model.embed_image(image))


def test_half_the_image_is_nearly_twice_the_patch():
    """On smooth images, to which the pseudo-inverse's and the usual way of halving are alike."""
    torch.manual_seed(0)
    model = TwoTower(CONFIG)
    image = resized(255 * torch.rand(8, 3, 4, 4), 32, 32).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        halved, large = model.embed_image(image, image_size=16), model.embed_image(image, 16)
        by_hand = model.embed_image(resized(image.float(), 16, 16))
        full = model.embed_image(image)
    torch.testing.assert_close(halved, by_hand, rtol=0, atol=1e-5)
    assert ((halved - large).norm(dim=1) < 0.1 * (halved - full).norm(dim=1)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_whatever_their_channels(channels):
    image = torch.rand(5, channels, 8, 8)
    rows = [
        resized(one[None].expand(-1, 3, -1, -1), 6, 6)[:, 0] for one in image.flatten(0, 1)[:, None]
    ]
    torch.testing.assert_close(resize_image(image, 6).flatten(0, 1), torch.cat(rows))
    assert resize_image(image, 8) is image


def test_the_first_of_a_batch_can_be_seen_at_another_resolution():
    model, batch = TwoTower(CONFIG), pairs(5)
    mixed = model(batch, 16, first=2)
    expected = torch.cat(
        [model.embed_image(batch["image"][:2], 16), model.embed_image(batch["image"][2:])]
    )
    assert torch.equal(mixed.image, expected)
    assert torch.equal(mixed.text, model.embed(batch).text)


@pytest.mark.slow
@pytest.mark.parametrize("in_bf16", [False, True], ids=["fp32", "bf16"])
def test_it_compiles_without_graph_breaks(in_bf16):
    """To two resolutions in one graph, forward and backward; inductor takes minutes on a CPU."""
    model, batch = TwoTower(CONFIG), pairs(4)

    def embed(batch):
        return model.embed(batch, 16).image, model.embed_image(batch["image"], 4, 16)

    grads = []
    torch.compiler.reset()
    results = []
    for function in (embed, torch.compile(embed, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            results.append(function(batch))
        sum(side[:, 0].sum() for side in results[-1]).backward()
        grads.append(model.image_tower.patches.weight.grad.clone())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-2 if in_bf16 else 1e-6)
    scale = grads[0].abs().max()
    torch.testing.assert_close(
        grads[0] / scale, grads[1] / scale, rtol=0, atol=0.03 if in_bf16 else 1e-5
    )


@pytest.mark.parametrize(
    ("patch_size", "image_size", "message"),
    [
        (5, None, r"patch_size must divide the images, got 5 and \(32, 32\)"),
        (None, 12, r"patch_size must divide the images, got 8 and \(12, 12\)"),
        (0, None, "patch_size must divide the images, got 0"),
        (64, None, "patch_size must divide the images, got 64"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patch_size, image_size, message):
    with pytest.raises(ValueError, match=message):
        TwoTower(CONFIG).embed_image(pairs(2)["image"], patch_size, image_size)
