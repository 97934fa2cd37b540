"""Whether a test study came to what it should: to the truth, to the baseline, in the usual time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from limen.config import Qa
from limen.qa.history import Baseline, History, Run, Verdict

__all__ = ["judge", "same_of_everything"]


def judge(run: Run, history: History, limits: Qa, truth: str = "", *, accept: bool = False) -> Run:
    """Return a run that came through, with what is said of it.

    Parameters
    ----------
    run
        What was measured; its verdict and text do not count.
    truth
        The outcome that it has to have; "" where nobody knows it.
    accept
        Whether a person wants what was measured to be the baseline.
    """
    what = _shown(run)
    if truth and run.outcome != truth:
        return _failed(
            run,
            f"{what}; it should be {truth}",
            "look whether a [[route]] takes CT heads, and at the bundle: `limen model check ich`",
        )
    before = history.baseline(run)
    if before is None or accept:
        kind = Baseline.ACCEPTED if accept else Baseline.FIRST
        text = f"{what}; this is the baseline of bundle {run.bundle_sha256[:12] or 'none'}"
        return run.model_copy(update={"verdict": Verdict.OK, "text": text, "baseline": kind})
    if run.outcome != before.outcome:
        return _failed(
            run,
            f"{what}; the baseline of the same bundle is {_called(before)}",
            f"{_WHAT_MOVED}, or accept it: `limen qa --accept`",
        )
    if _apart(run.probability, before.probability) > limits.probability_tolerance:
        return _failed(
            run,
            f"{what}; the baseline of the same bundle is {_called(before)}, and they may differ "
            f"by {limits.probability_tolerance:g} (qa.probability_tolerance)",
            f"{_WHAT_MOVED}, or accept it: `limen qa --accept`",
        )
    return _in_time(run, history, limits, what)


_WHAT_MOVED = (
    "look what changed on this host since: Limen, a library, bundle.toml, engine.backend, "
    "engine.precision"
)


def same_of_everything(runs: Sequence[Run], history: History, limits: Qa) -> str:
    """Return what to say of a model that says the same of every head; "" where it does not.

    Nothing is said where a person has accepted that: heads may not be what the bundle looks at.
    """
    came = [run for run in runs if run.outcome and run.probability is not None]
    if len(came) < 2 or len({(run.bundle_sha256, run.outcome) for run in came}) > 1:
        return ""
    if max(_apart(run.probability, came[0].probability) for run in came) > (
        limits.probability_tolerance
    ):
        return ""
    bases = [run if run.baseline else history.baseline(run) for run in came]
    if all(base is not None and base.baseline is Baseline.ACCEPTED for base in bases):
        return ""
    return f"the bundle says the same of every head: {', '.join(_shown(run) for run in came)}"


def _in_time(run: Run, history: History, limits: Qa, what: str) -> Run:
    """Compare the latency with the median of those before."""
    assert run.latency_s is not None  # noqa: S101 - of a run that came through
    usual = history.latencies_s(run, limits.compare_runs)
    middle = median(usual) if usual else run.latency_s
    limit_s = max(middle * limits.latency_factor, middle + limits.latency_slack_s)
    slow = run.latency_s > limit_s
    text = f"{what}; usual are {middle:.1f} s, the median of {len(usual)}"
    update = {"verdict": Verdict.OK, "text": text, "latency_limit_s": limit_s, "slow": slow}
    if slow:
        update |= {
            "verdict": Verdict.WARNING,
            "text": f"slow: {text}, and {limit_s:.1f} s the limit ([qa])",
            "next": "see `limen status` for what waits, or accept it: `limen qa --accept`",
        }
    return run.model_copy(update=update)


def _failed(run: Run, text: str, todo: str) -> Run:
    return run.model_copy(update={"verdict": Verdict.FAILED, "text": text, "next": todo})


def _apart(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else 1.0
    return abs(one - other)


def _called(run: Run) -> str:
    """Return outcome and probability in words."""
    called = run.outcome.replace("_", " ")
    return called if run.probability is None else f"{called} {run.probability:.3f}"


def _shown(run: Run) -> str:
    took = "" if run.latency_s is None else f" in {run.latency_s:.1f} s"
    return f"{run.head} is {_called(run)}{took}"
