"""open_clip's own trainer on sub-batches: exact from each checkpoint, loud where misused."""

import csv
import io
import json
import logging
import math
import re
import runpy
import sys
import tarfile
from itertools import islice
from pathlib import Path
from zlib import crc32

import open_clip
import pytest
import torch
from PIL import Image

pytest.importorskip("webdataset", reason="open_clip_train imports it")
pytest.importorskip("pandas", reason="open_clip_train imports it")

from open_clip_train.params import parse_args

from jest_loader import Calibration
from jest_loader.adapters.open_clip import main
from jest_loader.adapters.open_clip.options import check_together, parse
from jest_loader.adapters.open_clip.sub_batches import SubBatches
from jest_loader.demo.icons import render
from jest_loader.reference_cache.format import read_manifest
from jest_loader.reference_cache.identity import recorded_batch_size
from tests.frameworks.test_examples import TINY
from tests.frameworks.toy import assert_no_row_is_shared, run_ranks
from tests.test_docs import blocks_of, typed

pytestmark = pytest.mark.filterwarnings("ignore")
COCA = {
    **TINY,
    "custom_text": True,
    "text_cfg": {**TINY["text_cfg"], "width": 16, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "output_tokens": True},
    "multimodal_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip
NUM_ROWS, ROOT = 88, Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, config in (("tiny-clip", TINY), ("tiny-coca_ViT", COCA)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def quiet():
    """The trainer adds handlers to the root logger, and leaves them there."""
    before = logging.root.handlers[:]
    yield
    for handler in logging.root.handlers[:]:
        if handler not in before:
            logging.root.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Icons as PNGs with their names: as files of a csv, and in tars."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number, icon in enumerate(islice(render(["elusive"]), NUM_ROWS)):
        path = folder / f"{number}.png"
        Image.fromarray(icon.pixels).convert("RGB").save(path)
        rows.append((str(path), icon.caption))
    for name, some in (("train.csv", rows), ("val.csv", rows[:20])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("filepath", "title"), *some])
    for shard in range(4):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for path, caption in rows[shard::4]:
                for suffix, content in (
                    ("png", Path(path).read_bytes()), ("txt", caption.encode())
                ):  # fmt: skip
                    member = tarfile.TarInfo(f"{Path(path).stem}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Weights with a bias, which softmax models leave out."""
    path = tmp_path_factory.mktemp("reference") / "reference.pt"
    torch.manual_seed(7)
    model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), path)
    return f"tiny-clip:{path}"


@pytest.fixture
def train(pictures, tmp_path, monkeypatch):
    """Runs the command; what the trainer iterated, a digest of each row."""
    iterate = SubBatches.__iter__
    seen = []

    def recorded(self):
        for image, text in iterate(self):
            rows = zip(image, text, strict=True)
            seen.append([crc32(i.numpy().tobytes() + t.numpy().tobytes()) for i, t in rows])
            yield image, text

    monkeypatch.setattr(SubBatches, "__iter__", recorded)

    def run(*words, jest=("--jest-score=hard_learner",), name="run", source="train.csv"):
        seen.clear()
        given = [
            f"--train-data={pictures / source}", "--model=tiny-clip", "--device=cpu", "--epochs=3",
            "--precision=fp32", "--batch-size=8", "--workers=0", "--warmup=2", f"--name={name}",
            f"--logs={tmp_path}", "--lr=1e-2", *words,
        ]  # fmt: skip
        main([*map(str, jest), "--", *map(str, given)])
        return list(seen)

    return run


def rows_of(batches):
    return [row for batch in batches for row in batch]


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_equal_weights(one, other):
    one, other = weights(one), weights(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


TARS = ("--train-num-samples=88",)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", ["train.csv", "train-{0..3}.tar"], ids=["csv", "tars"])
def test_a_run_goes_on_exactly_from_each_checkpoint(source, workers, train, tmp_path, reference):
    words = [f"--workers={workers}", *(TARS if "tar" in source else ())]
    options = {"source": source, "jest": [f"--jest-reference={reference}"]}
    whole = train(*words, **options)
    assert len(whole) == 3 * 2
    assert len({str(sorted(rows_of(whole[first : first + 2]))) for first in (0, 2, 4)}) == 3
    saved = tmp_path / "run" / "checkpoints"
    for epoch in (1, 2):
        checkpoint = saved / f"epoch_{epoch}.pt"
        resumed = train(*words, f"--resume={checkpoint}", name=f"from_{epoch}", **options)
        assert resumed == whole[2 * epoch :]
        assert_equal_weights(
            saved / "epoch_3.pt", tmp_path / f"from_{epoch}/checkpoints/epoch_3.pt"
        )


def test_latest_is_what_was_saved_last_whatever_was_begun(train, tmp_path):
    words = ("--save-most-recent", "--save-frequency=0", "--lr-scheduler=const")
    whole = train(*words)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("*.pt")] == [
        "epoch_3.pt", "epoch_latest.pt"
    ]  # fmt: skip
    train(*words, "--epochs=2", name="cut")
    saved = tmp_path / "cut" / "checkpoints"
    (saved / "epoch_2.pt").unlink()
    # As of a run that was killed while it evaluated its third epoch.
    (saved / "epoch_3.jest.json").write_text("{}")
    assert train("--resume=latest", "--epochs=2", name="cut") == []
    assert train("--resume=latest", *words, name="cut") == whole[4:]
    assert_equal_weights(saved / "epoch_3.pt", tmp_path / "run/checkpoints/epoch_3.pt")


def test_an_accumulated_step_is_one_sub_batch_and_one_of_the_schedule(train, tmp_path):
    seen = train("--accum-freq=2", "--batch-size=4", "--lr=1", "--epochs=2")
    whole = train("--epochs=2", name="whole")
    assert [len(rows) for rows in seen] == [4] * 8
    # The same rows, since selection is the same, until the weights differ by rounding.
    assert seen[0] + seen[1] == whole[0]
    assert len(set(rows_of(seen[:4]))) == 16
    optimizer = torch.load(tmp_path / "run/checkpoints/epoch_2.pt", weights_only=True)["optimizer"]
    steps, warmup = 4, 2
    last = 0.5 * (1 + math.cos(math.pi * (steps - 1 - warmup) / (steps - warmup)))
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(last)


def test_validation_is_whole_and_what_was_chosen_is_logged(train, pictures, tmp_path):
    words = ("--report-to=tensorboard", "--log-every-n-steps=1", f"--val-data={pictures}/val.csv")
    train(*words, "--epochs=2")
    lines = (tmp_path / "run/checkpoints/results.jsonl").read_text().splitlines()
    assert [json.loads(line)["num_samples"] for line in lines] == [20, 20]
    log = (tmp_path / "run/out.log").read_text()
    assert log.count("jest/score: ") == 4
    assert "[16/16 (100%)]" in log

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    score, uniform = (
        [event.value for event in events.Scalars(f"jest/{name}")]
        for name in ("score", "uniform_score")
    )
    assert len(score) == 4
    assert sum(score) > sum(uniform)
    assert [event.step for event in events.Scalars("jest/score")] == [0, 1, 2, 3]


@pytest.mark.parametrize("model", ["siglip", "coca"])
def test_other_models_train_and_are_their_own_reference(model, train, tmp_path):
    words = ["--siglip"]
    if model == "coca":
        start = open_clip.create_model("tiny-coca_ViT")
        torch.nn.init.eye_(start.text_decoder.text_projection)  # Which open_clip leaves unset.
        torch.save(start.state_dict(), tmp_path / "start.pt")
        words = ["--model=tiny-coca_ViT", f"--pretrained={tmp_path / 'start.pt'}"]
    train(*words, "--epochs=1", name="reference")
    name = "tiny-clip" if model == "siglip" else "tiny-coca_ViT"
    file = tmp_path / "reference/checkpoints/epoch_1.pt"
    jest = [f"--jest-reference={name}:{file}", "--jest-score=easy_reference"]
    whole = train(*words, "--epochs=2", jest=jest)
    checkpoint = tmp_path / "run/checkpoints/epoch_1.pt"
    assert (
        train(*words, "--epochs=2", f"--resume={checkpoint}", jest=jest, name="more") == whole[2:]
    )
    state = json.loads((tmp_path / "run/checkpoints/epoch_1.jest.json").read_text())
    expected = "sigmoid" if model == "siglip" else "softmax"
    assert state["configuration"]["loss"] == expected


def test_a_references_bias_is_of_the_batch_size_that_is_named_or_fitted(
    train, tmp_path, caplog, monkeypatch
):
    train("--siglip", "--epochs=1", name="reference")
    weights = tmp_path / "reference/checkpoints/epoch_1.pt"
    jest = [f"--jest-reference=tiny-clip:{weights}", "--jest-score=easy_reference"]
    calls = []

    def fit(sample, size, **options):  # The model is too small to tell any pair from others.
        calls.append(len(sample.image))
        return Calibration(9.0, -4.0, size)

    monkeypatch.setattr("jest_loader.scoring.sized.calibrate", fit)
    whole = train("--siglip", "--epochs=2", jest=jest)
    assert "scale and bias are 9.000 and -4.000, fitted to sub-batches of 8" in caplog.text
    state = json.loads((tmp_path / "run/checkpoints/epoch_1.jest.json").read_text())
    assert state["reference_fit"] == [9.0, -4.0, 8]
    checkpoint = f"--resume={tmp_path / 'run/checkpoints/epoch_1.pt'}"
    assert train("--siglip", "--epochs=2", checkpoint, jest=jest, name="more") == whole[2:]
    assert calls == [NUM_ROWS]
    cache = tmp_path / "cache"
    told = [*jest, f"--jest-reference-cache={cache}", "--jest-reference-batch-size=64"]
    train("--siglip", "--epochs=1", jest=told, name="told")
    assert recorded_batch_size(read_manifest(cache).identity) == 64
    assert calls == [NUM_ROWS]


def test_models_score_in_the_precision_that_is_named(train, reference, monkeypatch):
    entered, enter = [], torch.autocast.__enter__

    def noted(self):
        entered.append(self.fast_dtype)
        return enter(self)

    monkeypatch.setattr(torch.autocast, "__enter__", noted)
    jest = [f"--jest-reference={reference}", "--jest-score-precision=fp16"]
    train("--epochs=1", jest=jest)
    assert entered.count(torch.float16) == 4, "the learner and the reference, at two steps"


def test_uniform_steps_leave_the_epochs_as_long(train):
    seen = train("--epochs=4", jest=["--jest-score=hard_learner", "--jest-stop-fraction=0.5"])
    assert len(seen) == 4 * 2
    assert len(set(rows_of(seen[4:6]))) == 16


def test_a_cache_is_built_once_and_belongs_to_its_csv(train, pictures, tmp_path, reference, capsys):
    cache = f"--jest-reference-cache={tmp_path}/cache"
    built = train(jest=[cache, f"--jest-reference={reference}"])
    again = train(jest=[cache], name="again")
    assert again == built
    longer = pictures / "longer.csv"
    rows = (pictures / "train.csv").read_text().splitlines()
    longer.write_text("\n".join([*rows, rows[1]]))
    with pytest.raises(SystemExit):
        train(jest=[cache], name="other", source="longer.csv")
    assert "and here it is 'csv " in capsys.readouterr().err.splitlines()[-1]


def test_the_example_trains_on_a_folder(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    for picture in sorted(pictures.glob("*.png"))[:40]:
        (folder / picture.name).symlink_to(picture)
        (folder / f"{picture.stem}.txt").write_text(f"icon\n{picture.stem}")
    words = [
        "examples/open_clip_train.py", folder, "--jest-score=hard_learner", "--",
        "--model=tiny-clip", "--batch-size=4", "--device=cpu", "--precision=fp32", "--workers=0",
        "--epochs=1", "--name=run", f"--logs={tmp_path}", "--warmup=1",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    state = json.loads((tmp_path / "run/checkpoints/epoch_1.jest.json").read_text())
    assert (state["num_steps"], state["counts"]["trained"]) == (2, 8)


def test_the_commands_of_the_page_are_valid():
    commands = typed("python", blocks_of(ROOT / "docs/frameworks/open_clip.md"))
    assert len(commands) == 2
    for _, module, *words in commands:
        assert module == "jest_loader.adapters.open_clip"
        if words != ["--help"]:
            options, trainers = parse(words)
            check_together(options, parse_args(trainers))


MISTAKES = {
    "no dashes": ("--jest-score=hard_learner", r"own arguments must follow a --"),
    "unknown": ("--jest-scores=x -- --train-data=x.csv", r"unknown option --jest-scores=x; open"),
    "in the wrong place": ("-- --train-data=x.csv --jest-gain=2", r"--jest-gain=2 must stand bef"),
    "no reference": ("-- --train-data=x.csv", r"--jest-score learnability needs a reference; giv"),
    "no effect": (
        "--jest-score=hard_learner --jest-reference=tiny-clip:x -- --train-data=x.csv",
        r"--jest-reference has no effect while --jest-score is hard_learner",
    ),
    "gain": ("--jest-gain=0 --jest-score=hard_learner --", r"--jest-gain must be positive, got 0"),
    "chunks": (
        "--jest-num-chunks=4 --jest-selector=topk --jest-score=hard_learner --",
        r"--jest-num-chunks has no effect while --jest-selector is topk",
    ),
    "size without a reference": (
        "--jest-score=hard_learner --jest-reference-batch-size=8 --",
        r"--jest-reference-batch-size has no effect while --jest-score is hard_learner",
    ),
    "size of nothing": (
        "--jest-reference=a:b --jest-reference-batch-size=0 --", r"-size must be at least 1, got 0",
    ),
    "size without a bias": (
        "--jest-reference=ViT-B-32:x --jest-reference-batch-size=8 -- --train-data=x.csv",
        r"has no effect without --siglip, since the softmax loss has no bias, got 8; leave it out",
    ),
    "factor": ("--jest-super-batch-factor=1 --", r"factor must be at least 2, got 1"),
    "fraction": ("--jest-stop-fraction=2 --", r"must be above 0 and at most 1, got 2"),
    "choice": ("--jest-score=easy --", r"invalid choice: 'easy'"),
    "no data": ("--jest-score=hard_learner --", r"--train-data must say what to select from"),
    "horovod": ("--jest-score=hard_learner -- --train-data=x.csv --horovod", r"use torchrun"),
    "script": ("--jest-score=hard_learner -- --train-data=x.csv --torchscript", r"compile"),
    "no steps": (
        "--jest-score=hard_learner -- --train-data=x.csv --accum-freq=0",
        r"--accum-freq must be at least 1, got 0",
    ),
    "no length": (
        "--jest-score=hard_learner -- --dataset-type=synthetic", r"give --train-num-samples",
    ),
    "no csv": ("--jest-score=hard_learner -- --train-data=x.csv", r"cannot be read: .* check --tr"),
    "ids of tars": (
        "--jest-reference-cache=c -- --train-data=x.tar",
        r"must go with a csv, whose rows have numbers .* got --dataset-type auto of x.tar",
    ),
    "model": ("--jest-reference=ViT-B-33:x -- --train-data=x.csv", r"near it are ViT-B-32"),
    "weights": (
        "--jest-reference=ViT-B-32:x -- --train-data=x.csv",
        r"a file or a tag of ViT-B-32 \(openai, .*\), got x",
    ),
    "no weights": ("--jest-reference=ViT-B-32 -- --train-data=x.csv", r"got none$"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jest-loader: ")
    assert re.search(message, line)


CSVS = {
    "another column": ("file\ttitle\na.png\ta cat\n", r"filepath that --csv-img-key names, got"),
    "commas": ("filepath,title\na.png,a cat\n", r"as --csv-separator '\\t' parts them; set one"),
    "a header alone": ("filepath\ttitle\n", r"must have rows below its header line, got none"),
    "nothing": ("", r"must be a csv with a header line, but cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CSVS.values(), ids=CSVS)
@pytest.mark.parametrize("option", ["--train-data", "--val-data"], ids=["train", "val"])
def test_a_csv_that_is_none_is_one_sentence(option, text, message, train, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(SystemExit) as ended:
        train(f"{option}={tmp_path / 'bad.csv'}")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_rows_without_a_caption_are_counted(train, pictures, tmp_path):
    lines = (pictures / "train.csv").read_text().splitlines()
    for row, caption in ((3, ""), (5, "null")):
        lines[row] = f"{lines[row].partition(chr(9))[0]}\t{caption}"
    (tmp_path / "some.csv").write_text("\n".join(lines))
    train(f"--train-data={tmp_path / 'some.csv'}", "--epochs=1")
    assert "2 of 88 captions are empty" in (tmp_path / "run/out.log").read_text()


def test_a_checkpoint_cut_short_is_one_sentence(train, tmp_path, capsys):
    """As of a run that was killed while the trainer saved."""
    train("--epochs=2")
    last = tmp_path / "run" / "checkpoints" / "epoch_2.pt"
    for size in (last.stat().st_size // 2, 0):
        last.write_bytes(last.read_bytes()[:size])
        with pytest.raises(SystemExit) as ended:
            train("--resume=latest")
        assert ended.value.code == 2
        assert "--resume latest goes on from the one" in capsys.readouterr().err.splitlines()[-1]
    last.unlink()
    assert len(train("--resume=latest")) == 4


def of_other_images(folder):
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 48}}
    (folder / "tiny-48.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-48.json")
    torch.save(open_clip.create_model("tiny-48").state_dict(), folder / "48.pt")
    return f"tiny-48:{folder / '48.pt'}"


def test_what_only_the_run_can_find_is_one_sentence(train, tmp_path, reference, capsys):
    train("--epochs=1", jest=[f"--jest-reference={reference}"])
    saved = tmp_path / "run" / "checkpoints"
    resuming = f"--resume={saved / 'epoch_1.pt'}"
    text = tmp_path / "text.pt"
    text.write_text("filepath\ttitle")
    bad = {
        r"must hold at least one super-batch, 96 rows": (
            [], ["--jest-score=hard_learner", "--jest-super-batch-factor=12"],
        ),
        r"its images are 48 x 48, .* and the learner's 32 x 32": (
            [], [f"--jest-reference={of_other_images(tmp_path)}"],
        ),
        r"must have a logit bias under --siglip, but .*reference.pt was trained with the soft": (
            ["--siglip"], [f"--jest-reference={reference}"],
        ),
        r"must be those of a tiny-clip, but .*text.pt cannot be loaded: ": (
            [], [f"--jest-reference=tiny-clip:{text}"],
        ),
        r"must be those of a tiny-coca_ViT, but": (
            [], [f"--jest-reference={reference.replace('tiny-clip', 'tiny-coca_ViT')}"],
        ),
        r"configuration that it was saved with, but selector was JointSelector and is now TopK": (
            [resuming], [f"--jest-reference={reference}", "--jest-selector=topk"],
        ),
        r"no reference cache at .*nothing: .* build it first$": (
            [], [f"--jest-reference-cache={tmp_path / 'nothing'}"],
        ),
    }  # fmt: skip
    for number, (message, (words, jest)) in enumerate(bad.items()):
        with pytest.raises(SystemExit) as ended:
            train(*words, jest=jest, name=f"bad{number}")
        assert ended.value.code == 2
        assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    (saved / "epoch_1.jest.json").unlink()
    with pytest.raises(SystemExit):
        train(resuming, name="without")
    assert "must lie beside the checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_help_is_short(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 45
    assert "--jest-super-batch-factor N" in out


RANKS = """
import json, os, sys, warnings
import open_clip, torch
warnings.simplefilter("ignore")
from zlib import crc32
from jest_loader.adapters.open_clip import main
from jest_loader.adapters.open_clip.options import check_together, parse
from jest_loader.adapters.open_clip.sub_batches import SubBatches
from tests.frameworks.test_examples import TINY

folder, pictures = sys.argv[1:]
rank = os.environ["RANK"]
os.mkdir(f"{folder}/{rank}")
with open(f"{folder}/{rank}/tiny-clip.json", "w") as file:
    json.dump(TINY, file)
open_clip.add_model_config(f"{folder}/{rank}")
whole = torch.nn.parallel.DistributedDataParallel
# The trainer names the device of a replica, which PyTorch takes of GPUs only.
torch.nn.parallel.DistributedDataParallel = lambda model, device_ids: whole(model)
# Several runs in one process are to have one group.
begin, begun = torch.distributed.init_process_group, torch.distributed.is_initialized
torch.distributed.init_process_group = lambda **options: begun() or begin(**options)
iterate, seen = SubBatches.__iter__, []

def recorded(self):
    for image, text in iterate(self):
        seen.append([crc32(i.numpy().tobytes() + t.numpy().tobytes()) for i, t in zip(image, text)])
        yield image, text

SubBatches.__iter__ = recorded

def run(source, name, *words):
    seen.clear()
    main([
        "--jest-score=hard_learner", "--", f"--train-data={pictures}/{source}",
        "--model=tiny-clip", "--device=cpu", "--dist-backend=gloo", "--epochs=2",
        "--precision=fp32", "--batch-size=4", "--workers=1", f"--logs={folder}", f"--name={name}",
        "--warmup=2", "--lr=1e-2", "--train-num-samples=88", *words,
    ])
    saved = torch.load(f"{folder}/{name}/checkpoints/epoch_2.pt", weights_only=True)["state_dict"]
    return [[*seen], sum(value.double().sum().item() for value in saved.values())]

found = []
for kind, source in ("csv", "train.csv"), ("tars", "train-{0..3}.tar"):
    found.append(run(source, kind))
    found.append(run(source, f"{kind}-on", f"--resume={folder}/{kind}/checkpoints/epoch_1.pt"))
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump(found, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(pictures, tmp_path):
    one, other = run_ranks(RANKS, tmp_path, pictures)
    for kind in (0, 2):
        (first, weight), (second, same_weight) = one[kind], other[kind]
        assert weight == same_weight
        assert len(first) == len(second) == 4
        assert_no_row_is_shared(first, second)
        assert one[kind + 1] == [first[2:], weight]
        assert other[kind + 1] == [second[2:], weight]
