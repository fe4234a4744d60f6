r"""What the learners of ``bench.training`` know at half size, where some arms score candidates.

Regime: the final learner of each arm, zero-shot on the held-out pictures in full and at half size.
A learner that knows nothing at half size adds nothing to scores made there.

    python -m bench.training.resolution --data runs/icons --runs runs/training \
        > bench/results/training_resolution.txt

The last line of the output is one JSON document.
"""

from pathlib import Path

from torch import Tensor, nn

from bench.harness import parser_of, print_document
from bench.training.arms import ARMS, Setting
from jest_loader.clip.config.held_out import HeldOutSet
from jest_loader.clip.evaluation.evaluate import evaluate
from jest_loader.clip.evaluation.held_out import read_held_out
from jest_loader.clip.saving import checkpoint


class Shrinking(nn.Module):
    """An image tower that sees all images at one size.

    Args:
        tower: The image tower.
        image_size: The size.
    """

    def __init__(self, tower: nn.Module, image_size: int) -> None:
        super().__init__()
        self.tower = tower
        self.image_size = image_size

    def forward(self, image: Tensor, patch_size: int | None, _: int | None) -> Tensor:
        """Floating [B, embed_dim] of uint8 [B, channels, height, width]."""
        found: Tensor = self.tower(image, patch_size, self.image_size)
        return found


def main() -> None:
    """Evaluate each arm's run twice."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what bench.training.data wrote")
    parser.add_argument("--runs", type=Path, required=True, help="what bench.training wrote")
    parser.add_argument("--setting", default=Setting().name)
    parser.add_argument("--arms", nargs="+", default=["joint", "flexi", "flexi_scored"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = {}
    for arm in arguments.arms:
        run = arguments.runs / arguments.setting / arm / f"seed-{arguments.seed}"
        model = checkpoint.load_model(run / "checkpoint.pt").eval()
        held_out = read_held_out(HeldOutSet(data=arguments.data / "test"), model.config)
        full = evaluate(model, held_out)["zero_shot_top1"]
        model.image_tower = Shrinking(model.image_tower, model.config.image_size // 2)
        half = evaluate(model, held_out)["zero_shot_top1"]
        found[arm] = {"full": full, "half": half}
        print(f"{ARMS[arm].about:56s} top-1 in full {full:6.2%}, at half size {half:6.2%}")
    print_document({"setting": arguments.setting, "top1": found})


if __name__ == "__main__":
    main()
