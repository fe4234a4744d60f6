"""The Trainer of transformers, with a SigLIP model.

    python examples/siglip_trainer.py SHARDS --reference google/siglip-base-patch16-224

SHARDS is a folder that `jest-loader pack` wrote. The run is saved each 100 steps; given again, the
command goes on where it was. Both models must take the same pictures and tokens.
"""

import argparse
from pathlib import Path

from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel, Trainer, TrainingArguments

from jest_loader import Embeddings, FrozenReference, JestDataset, Learnability, LiveLearner
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.transformers import JestTrainerMixin

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("shards", type=Path)
parser.add_argument("--model", default="google/siglip-base-patch16-224")
parser.add_argument("--reference", default="google/siglip-large-patch16-224")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--save-every", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("siglip-run"))
options = parser.parse_args()

pictures = AutoImageProcessor.from_pretrained(options.model)
tokenizer = AutoTokenizer.from_pretrained(options.model)
model = SiglipModel.from_pretrained(options.model)
reference = SiglipModel.from_pretrained(options.reference)
length = model.config.text_config.max_position_embeddings
decode = DecodeImages(
    "image", transform=lambda picture: pictures(picture, return_tensors="pt")["pixel_values"][0]
)


def prepare(batch):
    """What both models read; SigLIP has learned from captions padded to one length."""
    tokens = tokenizer(
        batch["caption"],
        padding="max_length", max_length=length, truncation=True, return_tensors="pt",
    )  # fmt: skip
    return {**decode(batch), "tokens": tokens["input_ids"]}


def embed(model, batch):
    found = model(input_ids=batch["tokens"], pixel_values=batch["image"])
    return Embeddings(
        found.image_embeds, found.text_embeds, model.logit_scale.exp(), model.logit_bias
    )


def dataset(model):
    return JestDataset(
        MdsSource(options.shards, batch_size=options.batch_size),
        Learnability(LiveLearner(model, embed), FrozenReference(reference.to(model.device), embed)),
        super_batch_size=5 * options.batch_size,
        sub_batch_size=options.batch_size,
        prepare=prepare,
    )


class SiglipTrainer(JestTrainerMixin, Trainer):
    def compute_loss(self, model, inputs, **_):
        return model(inputs["tokens"], inputs["image"], return_loss=True).loss


arguments = TrainingArguments(
    str(options.out), per_device_train_batch_size=options.batch_size, max_steps=options.steps,
    save_steps=options.save_every, learning_rate=1e-4, logging_steps=10, report_to=[],
)  # fmt: skip
was_saved = any(options.out.glob("checkpoint-*"))
SiglipTrainer(model, arguments, jest=dataset).train(resume_from_checkpoint=was_saved)
