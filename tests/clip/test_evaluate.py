"""Evaluation against counts made by hand."""

import pytest
import torch

from jest_loader.clip.evaluate import HeldOut, evaluate
from jest_loader.clip.tokenizer import HashTokenizer
from jest_loader.clip.towers import ModelConfig, TwoTower

CLASSES = ("bell", "cart", "heart")


class Given(TwoTower):
    """A model with embeddings set by hand: pixel 0 of an image is the row of ``images``."""

    def __init__(self, images: list[list[float]], texts: dict[str, list[float]]) -> None:
        super().__init__(ModelConfig(image_size=8, channels=1, embed_dim=2))
        self.images = torch.tensor(images)
        tokenize = HashTokenizer(self.config.vocab_size, self.config.context_length)
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
    return HeldOut(image, torch.tensor(labels), CLASSES)


def test_accuracy_and_retrieval_are_counted_right():
    texts = {"bell": [1.0, 0.0], "cart": [0.0, 1.0], "heart": [-1.0, 0.0]}
    images = [[1.0, 0.1], [0.2, 1.0], [0.9, 0.5], [0.1, -1.0]]
    metrics = evaluate(Given(images, texts), held_out([0, 1, 1, 2]))
    # Images 0 and 1 are nearest their own caption; 2 is nearest bell, 3 nearest bell.
    assert metrics["zero_shot_top1"] == 0.5
    assert metrics["zero_shot_top5"] == 1.0
    # bell finds image 0 first, cart image 1; heart finds 3 first (the least unlike).
    assert metrics["retrieval_r1"] == 1.0


def test_ties_count_as_a_random_order_would():
    """A model that tells nothing apart is at chance, whatever the order of the classes."""
    texts = {name: [1.0, 0.0] for name in CLASSES}
    metrics = evaluate(Given([[1.0, 0.0]] * 6, texts), held_out([0, 0, 1, 1, 2, 2]))
    assert metrics["zero_shot_top1"] == pytest.approx(1 / 3)
    assert metrics["retrieval_r1"] == pytest.approx(1 / 5)
    assert metrics["zero_shot_top5"] == 1.0


def test_the_mode_of_the_model_is_put_back():
    model = Given([[1.0, 0.0]] * 2, {name: [1.0, 0.0] for name in CLASSES}).train()
    evaluate(model, held_out([0, 1]))
    assert model.training


def test_classes_are_the_distinct_captions():
    image = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    read = HeldOut.read(
        [{"image": image, "caption": ["b", "a", "b"]}, {"image": image[:1], "caption": ["c"]}]
    )
    assert read.classes == ("a", "b", "c")
    assert read.label.tolist() == [1, 0, 1, 2]
    with pytest.raises(ValueError, match="at least 2 distinct captions, got 1"):
        HeldOut.read([{"image": image, "caption": ["a"] * 3}])
