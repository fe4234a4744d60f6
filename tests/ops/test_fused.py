"""The Triton kernels against the plain form: interpreted on a CPU, compiled for GPUs, run on one.

Without a GPU the kernels are interpreted, which says that they compute the right numbers, and
compiled by ``compile_kernels.py``, which says that they fit. Triton's interpreter multiplies no
bfloat16.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.device import products_of_numpy
from jest_loader import Embeddings, FactoredScores, JointSelector
from jest_loader.ops import noise, plain
from jest_loader.ops.tiles import Work, by_rule
from tests.helpers import random_embeddings

fused = pytest.importorskip("jest_loader.ops.fused", reason="needs Triton")
ReduceOps = pytest.importorskip("triton.runtime.interpreter").ReduceOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float16, torch.float32, torch.bfloat16]
SUMS = ["sigmoid_loss", "softmax_normalisers"]

# No size is a multiple of any tile, or one is smaller than the smallest; and all of a super-batch.
CASES = {
    "odd": (203, 37, 100),
    "tiny": (5, 1, 3),
    "wide": (70, 12, 257),
    "two tiles of the chunk": (70, 129, 16),
    "all": (64, 64, 32),
}


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch):
    """Tiles are multiplied by NumPy: the interpreter calls ``_multiply`` for each element."""
    monkeypatch.setattr(ReduceOps, "generic_reduce", products_of_numpy)


def embeddings(size, width, dtype, **options):
    if dtype is torch.bfloat16 and DEVICE.type == "cpu":
        pytest.skip("Triton's interpreter multiplies no bfloat16")
    found = random_embeddings(
        size, width, seed=0, logit_scale=20.0, logit_bias=-6.0, dtype=dtype, **options
    )
    return replace(found, image=found.image.to(DEVICE), text=found.text.to(DEVICE))


def errors(low: Embeddings, chunk: torch.Tensor, name: str) -> list[float]:
    """Largest error of the fused and of the plain form, against the plain form in fp64."""
    exact = replace(low, image=low.image.double(), text=low.text.double())
    fused_sums, plain_sums, exact_sums = (
        getattr(pairs, name)(pairs.rows(chunk))
        for pairs in (fused.Pairs(low), plain.Pairs(low), plain.Pairs(exact))
    )
    assert fused_sums.shape == exact_sums.shape
    return [(sums - exact_sums).abs().max().item() for sums in (fused_sums, plain_sums)]


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_as_exact_as_the_plain_form(case, name, dtype):
    size, chunk_size, width = CASES[case]
    low = embeddings(max(size, chunk_size), width, dtype)
    chunk = torch.randperm(len(low.image), device=DEVICE)[:chunk_size]
    fused_error, plain_error = errors(low, chunk, name)
    assert fused_error <= 2 * plain_error + 4e-6


@pytest.mark.parametrize("name", SUMS)
def test_the_largest_tiles_compute_the_same(name, monkeypatch):
    large = by_rule(Work(100_000, 2048, element_size=2), shared_bytes=227 << 10)
    assert (large.candidates, large.chunk) == (128, 256)
    monkeypatch.setattr(fused, "_tiles", lambda *_: large)
    low = embeddings(270, 72, torch.float16)
    fused_error, plain_error = errors(low, torch.arange(0, 270, 2, device=DEVICE), name)
    assert fused_error <= 2 * plain_error + 4e-6


@pytest.mark.parametrize("bias", [0.0, -16.0, 16.0])
def test_large_tiles_lose_nothing_where_all_pairs_are_alike(bias, monkeypatch):
    """All factors of a tile's product at an end of their range."""
    large = by_rule(Work(100_000, 2048, element_size=2), shared_bytes=227 << 10)
    monkeypatch.setattr(fused, "_tiles", lambda *_: large)
    low = replace(embeddings(130, 16, torch.float16), logit_scale=0.01, logit_bias=bias)
    chunk = torch.arange(130, device=DEVICE).repeat(2)[:256]
    fused_error, plain_error = errors(low, chunk, "sigmoid_loss")
    # A logarithm of 64 has a resolution of 4e-6, and there are two a tile and direction.
    assert fused_error <= 2 * plain_error + 2e-5


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("name", SUMS)
def test_extreme_logits_neither_overflow_nor_vanish(name, scale):
    low = replace(embeddings(40, 16, torch.float32), logit_scale=scale, logit_bias=-scale)
    fused_error, plain_error = errors(low, torch.arange(20, device=DEVICE), name)
    assert fused_error <= 2 * plain_error + 4e-6 * scale


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("name", SUMS)
def test_a_row_that_is_not_finite_stays_with_its_candidate(name):
    low = embeddings(40, 16, torch.float16)
    low.image[7] = torch.nan
    pairs = fused.Pairs(low)
    sums = getattr(pairs, name)(pairs.rows(torch.arange(20, 30, device=DEVICE))).view(-1, 40)
    assert torch.isnan(sums[0]).nonzero().flatten().tolist() == [7]


def test_scale_and_bias_may_be_tensors():
    low = embeddings(40, 16, torch.float16)
    tensors = replace(
        low, logit_scale=torch.tensor(20.0), logit_bias=torch.tensor(-6.0, dtype=torch.float64)
    )
    pairs = [fused.Pairs(given) for given in (low, tensors)]
    chunk = pairs[0].rows(torch.arange(5, device=DEVICE))
    assert torch.equal(*(each.sigmoid_loss(chunk) for each in pairs))


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("width", [16, 13])
def test_a_chunk_may_be_of_other_candidates(name, width):
    """As it is where they are those of another rank."""
    low = embeddings(90, width, torch.float16)
    here, there = (
        replace(low, image=low.image[rows], text=low.text[rows])
        for rows in (slice(50), slice(50, 90))
    )
    chunk = torch.arange(3, 40, 2, device=DEVICE)
    for form in (fused, plain):
        foreign = getattr(form.Pairs(here), name)(form.Pairs(there).rows(chunk))
        whole = form.Pairs(low)
        own = getattr(whole, name)(whole.rows(chunk + 50))
        torch.testing.assert_close(foreign, own[..., :50], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("num_groups", [1, 2, 30])
@pytest.mark.parametrize("name", SUMS)
def test_pairs_of_one_group_are_left_out(name, num_groups, monkeypatch):
    """Of one group nothing is left; of two, whole tiles are masked before any pair counts."""
    low = embeddings(203, 24, torch.float16)
    tiles = by_rule(Work(203, 97, element_size=2), shared_bytes=99 << 10)
    monkeypatch.setattr(fused, "_tiles", lambda *_: tiles._replace(chunk=16))
    ids = torch.randint(-num_groups, 0, (203,), generator=torch.Generator().manual_seed(0))
    ids = (ids.sort().values * 2**40).to(DEVICE)
    chunk = torch.arange(5, 199, 2, device=DEVICE)
    exact = replace(low, image=low.image.double(), text=low.text.double())
    found, in_plain, expected = (
        getattr(pairs, name)(pairs.rows(chunk), plain.Groups(ids, ids[chunk])).double()
        for pairs in (fused.Pairs(low), plain.Pairs(low), plain.Pairs(exact))
    )
    z = exact.logit_scale * exact.image @ exact.text.T + exact.logit_bias
    z = torch.stack([z, z.T]).masked_fill(ids[:, None] == ids, -torch.inf)[:, :, chunk]
    by_hand = z.logsumexp(2) if name == "softmax_normalisers" else z.exp().log1p().sum((0, 2))
    torch.testing.assert_close(expected, by_hand)
    torch.testing.assert_close(in_plain, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.isfinite().all() == (num_groups > 1 or name == "sigmoid_loss")


@pytest.mark.parametrize("key", [0, 5, noise.fold(1, 2, 3), 2**63, 2**64 - 1])
def test_noise_is_the_plain_forms(key):
    found = fused.perturbed(torch.zeros(5003, device=DEVICE), key).cpu()
    expected = noise.gumbel(key, 5003, dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("gain", [1.0, 0.0, 4.0, 1e38])
def test_perturbed_logits_are_the_plain_forms(gain):
    logits = torch.linspace(-40, 40, 1301, device=DEVICE)
    logits[[0, 7, 1300]] = torch.tensor([-torch.inf, torch.nan, torch.inf], device=DEVICE)
    found, expected = (form.perturbed(logits, 5, gain=gain) for form in (fused, noise))
    assert found[[0, 7, 1300]].tolist() == [-torch.inf] * 3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("first", "stride"), [(0, 1), (2, 3), (255, 256)])
def test_a_share_of_the_candidates_has_the_noise_of_those(first, stride):
    share = noise.Share(first, stride)
    found = fused.perturbed(torch.zeros(501, device=DEVICE), noise.fold(1, 2, 3), share=share).cpu()
    everyones = noise.gumbel(noise.fold(1, 2, 3), 501 * stride, dtype=torch.float32, device=DEVICE)
    torch.testing.assert_close(found, everyones.cpu()[first::stride], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("size", "sub_batch", "num_chunks", "num_groups"),
    [(203, 41, 4, None), (65, 65, 3, None), (90, 9, 1, None), (203, 41, 4, 50), (65, 65, 3, 2)],
)
def test_the_same_candidates_are_selected(loss, size, sub_batch, num_chunks, num_groups):
    sides = [embeddings(size, 24, torch.float16, agreement=a) for a in (0.5, 2.0)]
    groups = None if num_groups is None else torch.arange(size) % num_groups
    picks = [
        JointSelector(num_chunks).select(
            FactoredScores(*sides, loss, groups=groups, fused=form), sub_batch, key=3
        )
        for form in (True, False)
    ]
    assert picks[0].tolist() == picks[1].tolist()


def test_fused_is_refused_where_it_cannot_run():
    doubles = random_embeddings(6, 4, seed=0)
    with pytest.raises(ValueError, match=r"fused=True needs Triton .*got torch.float64 on cpu"):
        FactoredScores(doubles, fused=True)


def test_without_triton_the_plain_form_runs_and_says_so(monkeypatch, caplog):
    from jest_loader.ops import dispatch

    monkeypatch.setitem(sys.modules, "jest_loader.ops.fused", None)
    monkeypatch.delattr("jest_loader.ops.fused", raising=False)
    dispatch._kernels.cache_clear()
    assert dispatch._kernels() is None
    assert "need Triton 3.4 or later" in caplog.text
    dispatch._kernels.cache_clear()


def test_an_environment_variable_turns_the_kernels_off(monkeypatch):
    from jest_loader.ops import dispatch

    dispatch._kernels.cache_clear()
    monkeypatch.setenv("JEST_LOADER_FUSED", "0")
    assert dispatch._kernels() is None
    dispatch._kernels.cache_clear()


@pytest.fixture(scope="module")
def compiled():
    """What the compiler says of each kernel, from a process in which Triton does not interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).parent / "compile_kernels.py"
    result = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.slow
def test_kernels_compile_without_spills_and_fit_the_shared_memory(compiled):
    assert len(compiled) >= 24
    for kernel in compiled:
        assert kernel["shared_bytes"] <= kernel["shared_bytes_of_gpu"], kernel
        assert kernel["stack_bytes"] == 0, kernel


@pytest.mark.slow
def test_on_hopper_products_use_tensor_cores_fed_by_the_copy_engine(compiled):
    on_hopper = [kernel for kernel in compiled if kernel["capability"] == 90]
    assert on_hopper
    for kernel in on_hopper:
        assert kernel["wgmma"] > 0, kernel
        assert kernel["bulk_copies"] > 0, kernel
