"""The data, the pool and the comparisons of ``bench.joint``."""

import gzip
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase

import pytest
import torch

from bench.joint import compare, records
from bench.joint.__main__ import check_pool
from bench.joint.arms import Setting
from bench.joint.dictionary import Dictionary, grams_of, other_pairs, pairs_of, write
from bench.joint.references import Reference
from bench.joint.runs import Bench, Run
from bench.joint.sources import Embedded, Pool, PoolSource, Split
from jest_loader import ColumnReference

LINES = [
    "# Version :: 1",
    "Haus {n}; Heim {n} [alt] | Häuser {pl} | (tolle) Häuschen {n} :: house; home | houses | huts",
    "ohne Gegenstück | zwei :: one",
    "… :: dots",
    *(f"Wort{n} | Wörter{n} :: word{n} | words{n}" for n in range(200)),
]


@pytest.fixture
def dictionary(tmp_path):
    write(list(pairs_of(LINES)), tmp_path)
    return Dictionary.read(tmp_path)


def source_of(dictionary, pool, **changes):
    rows = torch.eye(len(dictionary))
    options = {"batch_size": 40, "order": "random", "seed": 0, "reference": Embedded(rows, rows)}
    return PoolSource(dictionary, pool, **options | changes)


def test_a_line_makes_a_family_of_its_forms_first_translations():
    pairs = list(pairs_of(LINES))
    assert pairs[:3] == [
        ("Haus", "house", 1, True),
        ("Häuser", "houses", 1, True),
        ("Häuschen", "huts", 1, True),
    ]
    assert len(pairs) == 3 + 400


def test_texts_that_differ_in_case_have_the_same_grams():
    assert grams_of("Haus und Hof") == grams_of("haus UND hof") != grams_of("hof und haus")
    assert all(0 < gram < 1 << 16 for gram in grams_of("Haus und Hof"))


def test_no_family_is_in_two_parts(dictionary):
    split = Split.of(dictionary)
    families = [set(dictionary.family[rows].tolist()) for rows in vars(split).values()]
    assert sum(map(len, families)) == len(set.union(*families)) == 201
    assert sum(map(len, vars(split).values())) == len(dictionary)


def test_a_pool_smaller_than_a_super_batch_is_refused(dictionary):
    split = Split.of(dictionary)
    size = len(split.pool) // 5
    check_pool(split, Setting(batch_size=size))
    with pytest.raises(SystemExit, match=rf"at least {5 * size + 5} pairs.*--batch-size"):
        check_pool(split, Setting(batch_size=size + 1))


def test_a_stated_share_of_the_pool_has_wrong_captions_at_any_place(dictionary):
    pool = Pool.of(Split.of(dictionary).pool, wrong=0.25, seed=3)
    wrong = pool.rows != pool.captions
    assert int(wrong.sum()) == round(0.25 * len(pool))
    assert pool.captions.sort().values.equal(pool.rows.sort().values)
    first = next(iter(source_of(dictionary, pool, seed=3, batch_size=len(pool) // 2)))
    share = (first["row"] != first["caption"]).float().mean()
    assert 0.1 < share < 0.4


def test_a_source_that_was_loaded_goes_on_as_it_would_have(dictionary):
    pool = Pool.of(torch.arange(len(dictionary)), wrong=0.2, seed=0)
    source = source_of(dictionary, pool)
    batches = iter(source)
    for _ in range(3):
        next(batches)
    state = source.state_dict()
    other = source_of(dictionary, pool)
    other.load_state_dict(state)
    for ours, theirs in zip(batches, other, strict=True):
        assert ours["row"].equal(theirs["row"])
        assert ours["reference_text"].equal(torch.eye(len(dictionary))[ours["caption"]])


def test_families_stand_together_where_that_is_their_order(dictionary):
    pool = Pool.of(torch.arange(len(dictionary)), wrong=0.0, seed=0)
    rows = torch.cat([batch["row"] for batch in source_of(dictionary, pool, order="families")])
    families = dictionary.family[rows].tolist()
    changes = sum(family != other for family, other in pairwise(families))
    assert changes + 1 <= len(set(families)) < len(families) / 1.5
    assert families != sorted(families)


def test_a_run_that_was_left_ends_as_one_that_was_not(dictionary, tmp_path):
    setting = Setting(batch_size=8, steps=6)
    generator = torch.Generator().manual_seed(0)
    sides = torch.nn.functional.normalize(
        torch.randn(2, len(dictionary), 16, generator=generator), dim=2
    )
    column = ColumnReference(logit_scale=10.0, logit_bias=-5.0, trained_batch_size=8)
    reference = Reference(column, Embedded(*sides), {}, torch.arange(5))

    def run(stops_at):
        bench = Bench(dictionary, Split.of(dictionary), setting, reference, tmp_path, stops_at)
        return Run(bench, "joint-4", seed=1).finish()

    whole = run(float("inf"))
    lefts = 0
    while (record := run(0.0)) is None:
        lefts += 1
    assert lefts == 5
    assert record.pop("seconds") != whole.pop("seconds")
    assert record == whole
    assert whole["curve"][-1]["step"] == 6


def test_differences_are_paired_and_their_error_is_that_of_their_mean():
    def record(arm, seed, r1):
        return {
            "setting": vars(Setting()),
            "arm": arm,
            "seed": seed,
            "curve": [{"step": 300, "r1": r1 / 2}, {"step": 600, "r1": r1}],
        }

    found = [record("uniform", seed, 0.1 * (1 + seed)) for seed in range(3)]
    found += [
        record("joint-1", seed, 0.1 * (1 + seed) + gain)
        for seed, gain in enumerate([0.01, 0.02, 0.03])
    ]
    found += [record("joint-1", 7, 0.9)]  # Without a partner.
    runs = compare.grouped(found)[Setting()]
    difference = compare.difference(runs, "joint-1", "uniform", "r1")
    assert difference.mean == pytest.approx(2.0)
    assert difference.error == pytest.approx(1 / 3**0.5)
    assert difference.seeds == 3
    # 10 of 11, 20 of 22, 30 of 33 points, in a line.
    assert compare.share_of_steps(runs, "joint-1") == pytest.approx(10 / 11)
    assert compare.share_of_steps(runs, "uniform") == 1.0


def test_a_goal_of_nothing_is_reached_at_once():
    found = [
        {"setting": vars(Setting()), "arm": arm, "seed": 0, "curve": [{"step": 300, "r1": 0.0}]}
        for arm in ("uniform", "joint-1")
    ]
    assert compare.share_of_steps(compare.grouped(found)[Setting()], "joint-1") == 0.0


def test_a_run_that_is_recorded_is_known_by_its_setting_arm_and_seed(tmp_path):
    path = tmp_path / "results" / "joint.jsonl"
    records.append(path, {"setting": vars(Setting()), "arm": "joint-1", "seed": 0, "curve": []})
    assert records.is_recorded(path, Setting(), "joint-1", 0)
    assert not records.is_recorded(path, Setting(), "joint-1", 1)
    assert not records.is_recorded(path, Setting(loss="softmax"), "joint-1", 0)


def test_freedict_entries_give_pairs_of_other_languages_and_english(tmp_path):
    texts = {
        "silence": "silence /sail/ <n>\n (remark)\n 1. hiljaisuus, rauha\n 2. tauko\nmeaning",
        "dog": "dog\nkoira",
        "00databaseinfo": "made 2022",
    }
    write_dictd(tmp_path / "freedict-eng-fin", texts)
    write_dictd(tmp_path / "freedict-deu-eng", {"Hund": "Hund\ndog"})
    assert sorted(other_pairs(tmp_path, first_family=7)) == [
        ("hiljaisuus", "silence", 7, False),
        ("koira", "dog", 8, False),
        ("tauko", "silence", 7, False),
    ]


def write_dictd(path, texts):
    """A database of dictd: entries one after the other, their places in base 64."""
    data, lines = b"", []
    for word, text in texts.items():
        lines.append(f"{word}\t{base64(len(data))}\t{base64(len(text.encode()))}\n")
        data += text.encode()
    path.with_suffix(".index").write_text("".join(lines))
    path.with_suffix(".dict.dz").write_bytes(gzip.compress(data))


def base64(number):
    digits = ascii_uppercase + ascii_lowercase + "0123456789+/"
    return digits[number // 64] + digits[number % 64]
