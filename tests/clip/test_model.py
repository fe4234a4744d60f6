"""The tokenizer, the towers and the losses of the bundled model."""

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.tokenizer import PADDING, HashTokenizer
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.step.gradients import augment
from jest_loader.ops.losses import contrastive_loss
from tests.helpers import random_embeddings

SMALL = ModelConfig(image_size=16, channels=1, vision_width=32, text_width=32, embed_dim=16)


def batch_of(size, config=SMALL):
    shape = (size, config.channels, config.image_size, config.image_size)
    tokenize = HashTokenizer(config.vocab_size, config.context_length)
    return {
        "image": torch.randint(0, 256, shape, dtype=torch.uint8),
        "text": tokenize([f"icon number {row}" for row in range(size)]),
    }


def test_tokens_are_words_whatever_their_case_and_spacing():
    tokenize = HashTokenizer(1000, 6)
    first, second, third = tokenize(
        ["Shopping-Cart  plus", "shopping - cart plus", "cart shopping"]
    )
    assert first.tolist() == second.tolist()
    assert first[4:].tolist() == [PADDING, PADDING]
    assert set(third[:2].tolist()) < set(first.tolist())


def test_tokens_do_not_change_from_one_process_or_release_to_the_next():
    assert HashTokenizer(8192, 4)(["bell fill", "größe 2 日本", ""]).tolist() == [
        [6787, 6414, 0, 0],
        [2110, 5314, 3005, 0],
        [0, 0, 0, 0],
    ]


def test_long_captions_are_cut_and_ids_stay_in_range():
    tokens = HashTokenizer(10, 5)([" ".join(map(str, range(100)))])
    assert tokens.shape == (1, 5)
    assert tokens.min() > 0
    assert tokens.max() < 10


def test_embeddings_have_unit_norm_and_one_row_per_pair():
    model = TwoTower(SMALL)
    embeddings = model.embed(batch_of(5))
    for side in (embeddings.image, embeddings.text):
        assert side.shape == (5, 16)
        torch.testing.assert_close(side.norm(dim=1), torch.ones(5))
    assert embeddings.logit_scale.item() == pytest.approx(10.0)
    assert TwoTower(SMALL, logit_bias=None).embed(batch_of(2)).logit_bias is None


def test_padding_does_not_change_a_caption():
    torch.manual_seed(0)
    model = TwoTower(ModelConfig(text_depth=2))
    tokens = HashTokenizer(8192, 8)(["a bell", "a much longer caption than the other one"])
    alone = tokens[:1].clone()
    with torch.no_grad():
        torch.testing.assert_close(model.embed_text(tokens)[:1], model.embed_text(alone))
        changed = model.text_tower.words.weight.clone()
        model.text_tower.words.weight[PADDING] += 5.0
        torch.testing.assert_close(model.embed_text(tokens)[:1], model.embed_text(alone))
        before = model.embed_text(alone)
        model.text_tower.words.weight.copy_(changed)
        torch.testing.assert_close(model.embed_text(alone), before)
        assert torch.isfinite(model.embed_text(torch.zeros(1, 8, dtype=torch.int64))).all()


def test_losses_are_those_of_the_papers():
    embeddings = random_embeddings(6, 8, seed=0, logit_scale=4.0, logit_bias=-1.0)
    logits = 4.0 * embeddings.image @ embeddings.text.T
    sigmoid = softmax = 0.0
    for i in range(6):
        softmax -= (log_softmax(logits[i], 0)[i] + log_softmax(logits[:, i], 0)[i]) / 12
        for j in range(6):
            sigmoid -= logsigmoid((1 if i == j else -1) * (logits[i, j] - 1.0)) / 6
    torch.testing.assert_close(contrastive_loss(embeddings, "sigmoid"), sigmoid)
    no_bias = random_embeddings(6, 8, seed=0, logit_scale=4.0, logit_bias=None)
    torch.testing.assert_close(contrastive_loss(no_bias, "softmax"), softmax)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_model_can_learn_a_batch_by_heart(loss):
    torch.manual_seed(0)
    model = TwoTower(SMALL, logit_bias=-3.0 if loss == "sigmoid" else None)
    batch = batch_of(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        contrastive_loss(model.embed(batch), loss).backward()
        optimizer.step()
    found = model.embed(batch)
    assert (found.image @ found.text.T).argmax(1).tolist() == list(range(16))


def test_augmentation_shifts_the_whole_batch_and_repeats_itself():
    image = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 10:20, 10:20] = 255
    shifted = [augment(image, seed=seed) for seed in range(40)]
    assert all(torch.equal(out[0], out[1]) and out.shape == image.shape for out in shifted)
    assert all(out.sum() == image.sum() for out in shifted), "nothing is cut off in the middle"
    assert torch.equal(augment(image, seed=3), shifted[3])
    assert len({tuple(out[0, 0].nonzero()[0].tolist()) for out in shifted}) > 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(image_size=30), "patch_size must divide image_size, got 8 and 30"),
        (lambda: ModelConfig(heads=0), "heads must be at least 1, got 0"),
        (lambda: ModelConfig(heads=3), "heads must divide vision_width, got 3 and 128"),
        (lambda: HashTokenizer(1, 8), "vocab_size must be at least 2"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
