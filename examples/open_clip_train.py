"""open_clip's own trainer on the pictures of a folder, each with its caption beside it.

    python examples/open_clip_train.py FOLDER --jest-reference ViT-B-32:laion2b_s34b_b79k -- \
        --model ViT-B-32 --batch-size 64 --epochs 10 --name icons

FOLDER holds cat.png (or .jpg, .webp) and cat.txt, and so on. Before the -- stand options of
selection, after it those of open_clip_train, to which the training data is added. Add
--resume latest to go on with a run of that name.
"""

import csv
import sys
from pathlib import Path

from jest_loader.adapters.open_clip import main

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


def write_csv(folder: Path) -> Path:
    """A line for each picture that has a caption, in the form that open_clip_train reads."""
    path = folder / "train.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file, delimiter="\t")
        lines.writerow(["filepath", "title"])
        for picture in sorted(folder.iterdir()):
            caption = picture.with_suffix(".txt")
            if picture.suffix.lower() in PICTURES and caption.exists():
                lines.writerow([picture, " ".join(caption.read_text().split())])
    return path


if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main([*sys.argv[2:], f"--train-data={write_csv(Path(sys.argv[1]))}"])
