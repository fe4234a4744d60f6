"""What a checkpoint holds of a run, besides the configuration."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jest_loader.clip.journal.records import Evaluation
from jest_loader.clip.loading.build import proxy_of

if TYPE_CHECKING:
    from jest_loader.clip.train import Run


def state_of(run: "Run") -> dict[str, Any]:
    """All that changes from step to step, as tensors and plain values."""
    proxy = proxy_of(run.loader)
    return {
        "step": run.step,
        "seconds": run.seconds,
        "left_out": run.left_out,
        "watched": run.watched.state_dict(),
        "reference": run.reference,
        "model": run.model.state_dict(),
        "average": None if run.average is None else run.average.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "loader": run.loader.state_dict(),
        "proxy": None if proxy is None else proxy.state_dict(),
        "evaluations": [asdict(evaluation) for evaluation in run.evaluations],
    }


def restore(run: "Run", state: dict[str, Any]) -> None:
    """Bring a run that was just made to where ``state_of`` was called.

    Raises:
        ValueError: if candidates were scored with another reference, or other data were read.
    """
    if state["reference"] != run.reference:
        raise ValueError(
            f"{run.config.out} holds a run whose reference was {state['reference']}, which cannot "
            f"go on with {run.reference}; put that one back, or choose another folder"
        )
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.loader.load_state_dict(state["loader"])
    run.step, run.seconds = state["step"], state["seconds"]
    run.left_out = state["left_out"]
    run.watched.load_state_dict(state["watched"])
    run.evaluations = [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    if run.average is not None:
        run.average.model.load_state_dict(state["average"])
    if (proxy := proxy_of(run.loader)) is not None:
        proxy.load_state_dict(state["proxy"])
