"""Evaluation against counts made by hand."""

import pytest
import torch
from torch.nn.functional import normalize

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.evaluation.evaluate import embed_classes, evaluate, evaluate_all, headline
from jest_loader.clip.evaluation.held_out import Captions, Classes, HeldOut
from jest_loader.clip.models.towers import TwoTower

CLASSES = ("bell", "cart", "heart")


class Given(TwoTower):
    """A model with embeddings set by hand: pixel 0 of an image is the row of ``images``."""

    def __init__(self, images: list[list[float]], texts: dict[str, list[float]]) -> None:
        super().__init__(ModelConfig(image_size=8, channels=1, embed_dim=2))
        self.images = torch.tensor(images)
        tokenize = self.config.tokenizer()
        self.texts = {
            tuple(tokenize([caption])[0].tolist()): torch.tensor(vector)
            for caption, vector in texts.items()
        }

    def embed_image(self, image):
        return self.images[image[:, 0, 0, 0].long()]

    def embed_text(self, text):
        return torch.stack([self.texts[tuple(row.tolist())] for row in text])


def held_out(labels: list[int]) -> HeldOut:
    image = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    image[:, 0, 0, 0] = torch.arange(len(labels))
    return HeldOut([image[:2], image[2:]], Classes(CLASSES, torch.tensor(labels)))


def test_accuracy_and_retrieval_are_counted_right():
    texts = {"bell": [1.0, 0.0], "cart": [0.0, 1.0], "heart": [-1.0, 0.0]}
    images = [[1.0, 0.1], [0.2, 1.0], [0.9, 0.5], [0.1, -1.0]]
    metrics = evaluate(Given(images, texts), held_out([0, 1, 1, 2]))
    # Images 0 and 1 are nearest their own caption; 2 is nearest bell, 3 nearest bell.
    assert metrics["zero_shot_top1"] == 0.5
    assert metrics["zero_shot_top5"] == 1.0
    # Of bell all, of cart half, of heart none.
    assert metrics["zero_shot_mean_per_class_recall"] == 0.5
    # bell finds image 0 first, cart image 1; heart finds 3 first (the least unlike).
    assert metrics["retrieval_r1"] == 1.0


def test_ties_count_as_a_random_order_would():
    """A model that tells nothing apart is at chance, whatever the order of the classes."""
    texts = {name: [1.0, 0.0] for name in CLASSES}
    metrics = evaluate(Given([[1.0, 0.0]] * 6, texts), held_out([0, 0, 1, 1, 2, 2]))
    assert metrics["zero_shot_top1"] == pytest.approx(1 / 3)
    assert metrics["retrieval_r1"] == pytest.approx(1 / 5)
    assert metrics["zero_shot_top5"] == 1.0


@pytest.mark.parametrize("what", ["images", "class names"])
def test_a_model_that_diverged_is_refused(what):
    broken = [float("nan"), 0.0]
    texts = {name: broken if what == "class names" else [1.0, 0.0] for name in CLASSES}
    images = [broken if what == "images" else [1.0, 0.0]] * 6
    with pytest.raises(FloatingPointError, match=rf"finite .* but \d of \d {what} have NaN"):
        evaluate(Given(images, texts), held_out([0, 0, 1, 1, 2, 2]))


def test_the_mode_of_the_model_is_put_back():
    model = Given([[1.0, 0.0]] * 2, {name: [1.0, 0.0] for name in CLASSES}).train()
    evaluate(model, held_out([0, 1]))
    assert model.training


def test_classes_without_an_image_are_no_queries_and_have_no_recall():
    texts = {"bell": [1.0, 0.0], "cart": [0.0, 1.0], "heart": [-1.0, 0.0]}
    metrics = evaluate(Given([[1.0, 0.1], [0.9, 0.5]], texts), held_out([0, 1]))
    assert metrics["zero_shot_mean_per_class_recall"] == 0.5
    # Both find image 0 or 1 first: bell its own, cart its own.
    assert metrics["retrieval_r1"] == 1.0


def a_model_and_images(num_images: int) -> tuple[TwoTower, torch.Tensor]:
    torch.manual_seed(num_images)
    model = TwoTower(ModelConfig(image_size=16, channels=1, patch_size=4, vision_depth=1))
    return model.eval(), torch.randint(0, 256, (num_images, 1, 16, 16), dtype=torch.uint8)


def embedded(model: TwoTower, texts: list[str]) -> torch.Tensor:
    tokenize = model.config.tokenizer()
    return torch.cat([model.embed_text(tokenize([text])) for text in texts])


@torch.no_grad()
def test_zero_shot_is_what_clip_benchmark_defines():
    """Its formulas: argmax and topk of logits, and recall by class from the confusion matrix."""
    model, image = a_model_and_images(90)
    names = [f"{word} {number}" for number, word in enumerate("abcdefghi")]
    templates = ["a photo of a {}.", "the {c} over there", "{}"]
    label = torch.arange(90) * 7 % 8  # The last class has no image.
    weights = []
    for name in names:
        texts = [one.replace("{c}", name).replace("{}", name) for one in templates]
        mean = normalize(3 * embedded(model, texts), dim=-1).mean(dim=0)
        weights.append(mean / mean.norm())
    logits = 100 * model.embed_image(image) @ torch.stack(weights).T
    guess = logits.argmax(dim=1)
    confusion = torch.zeros(9, 9)
    for right, guessed in zip(label.tolist(), guess.tolist(), strict=True):
        confusion[right, guessed] += 1
    recall = (confusion.diag() / confusion.sum(dim=1))[:8]
    top5 = [row in best for row, best in zip(label, logits.topk(5).indices, strict=True)]

    blocks = torch.split(image, 40)
    metrics = evaluate(model, HeldOut(blocks, Classes(tuple(names), label, tuple(templates))))
    assert metrics["zero_shot_top1"] == (guess == label).sum().item() / 90
    assert metrics["zero_shot_top5"] == sum(top5) / 90
    assert metrics["zero_shot_mean_per_class_recall"] == pytest.approx(recall.mean().item())
    assert 0 < metrics["zero_shot_top1"] < metrics["zero_shot_top5"] < 1


@torch.no_grad()
@pytest.mark.parametrize("pairs", [1 << 24, 100], ids=["a block", "blocks"])
def test_retrieval_is_what_clip_benchmark_defines(pairs, monkeypatch):
    """Its formula: whether any of the right ones is among the topk, averaged over the queries."""
    import jest_loader.clip.evaluation.evaluate as module

    monkeypatch.setattr(module, "_BLOCK_PAIRS", pairs)
    model, image = a_model_and_images(50)
    counts = [1 + number % 3 for number in range(50)]
    owner = torch.repeat_interleave(torch.arange(50), torch.tensor(counts))
    owner = owner[torch.randperm(len(owner))]
    texts = [f"{number} of {own}" for number, own in enumerate(owner.tolist())]
    scores = embedded(model, texts) @ model.embed_image(image).T
    right = owner[:, None] == torch.arange(50)

    metrics = evaluate(model, HeldOut([image], captions=Captions(tuple(texts), owner)))
    assert list(metrics) == [
        f"{side}_retrieval_r{k}" for side in ("text", "image") for k in (1, 5, 10)
    ]
    for k in (1, 5, 10):
        of_texts = right.gather(1, scores.topk(k, dim=1).indices).any(dim=1)
        of_images = right.T.gather(1, scores.T.topk(k, dim=1).indices).any(dim=1)
        assert metrics[f"image_retrieval_r{k}"] == pytest.approx(of_texts.double().mean().item())
        assert metrics[f"text_retrieval_r{k}"] == pytest.approx(of_images.double().mean().item())
    assert metrics["text_retrieval_r10"] != metrics["image_retrieval_r10"]


def test_equal_captions_of_two_images_count_half():
    vectors = {"bell": [1.0, 0.0], "cart": [0.0, 1.0]}
    model = Given([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], vectors)
    image = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    image[:, 0, 0, 0] = torch.arange(3)
    captions = Captions(("bell", "bell", "cart"), torch.arange(3))
    metrics = evaluate(model, HeldOut([image], captions=captions))
    assert metrics["text_retrieval_r1"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert metrics["image_retrieval_r1"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert metrics["image_retrieval_r5"] == 1.0


@torch.no_grad()
def test_classes_in_blocks_are_those_at_once(monkeypatch):
    import jest_loader.clip.evaluation.evaluate as module

    model, _ = a_model_and_images(1)
    names = [f"thing {number}" for number in range(11)]
    at_once = embed_classes(model, names, ["a {}", "{} b", "{}"])
    monkeypatch.setattr(module, "_BLOCK", 7)
    torch.testing.assert_close(embed_classes(model, names, ["a {}", "{} b", "{}"]), at_once)
    torch.testing.assert_close(embed_classes(model, names, ()), embedded(model, names))


def test_sets_are_told_apart_by_their_names():
    texts = {"bell": [1.0, 0.0], "cart": [0.0, 1.0], "heart": [-1.0, 0.0]}
    model = Given([[1.0, 0.1], [0.2, 1.0]], texts)
    metrics = evaluate_all(model, {"": held_out([0, 1]), "wrong": held_out([1, 0])})
    assert (metrics["zero_shot_top1"], metrics["wrong/zero_shot_top1"]) == (1.0, 0.0)
    assert headline(metrics) == (
        "zero-shot 100.0%, top-5 100.0%, retrieval R@10 100.0%, "
        "wrong zero-shot 0.0%, wrong top-5 100.0%, wrong retrieval R@10 100.0%"
    )
