"""The benchmark for a GPU: what it runs and what it does when a case fails; all of it, at toy sizes, on the CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_cases import REAL, TOY, Case, cases
from mmsafe.core.errors import UserError


def figures(case: Case, **changed: Any) -> dict[str, Any]:
    steps = case.scale.steps
    found = {
        "device": "a card",
        "date": "2026-11-27",
        "prompt_tokens": 620.0,
        "response_tokens": 80.0,
        "unique_tokens": 860.0,
        "flops": 1e13,
        "matmul_peak": 8e14,
        "loss": [0.7] * steps,
        "grad_norm": [2.0] * steps,
        "seconds": [9.0] * case.scale.warm_up + [0.5] * (steps - case.scale.warm_up),
        "reference_seconds": 1.0,
        "peak_gib": 40.0,
    }
    return found | changed


def test_parts_are_the_whole_and_keep_what_is_compared_together() -> None:
    found = cases(REAL)
    parts = [gpu.part_of(found, f"{k}/4") for k in range(1, 5)]
    assert sorted(case.name for part in parts for case in part) == sorted(case.name for case in found)
    assert len({case.name for case in found}) == len(found)
    groups = [{case.group for case in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    for bad in ("0/4", "5/4", "x", "1"):
        with pytest.raises(UserError, match="is not K/N"):
            gpu.part_of(found, bad)


def test_a_case_that_fails_is_a_row_and_others_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, started = cases(TOY)[:3], []
    crashing, slow = wanted[1].name, wanted[2].name

    def process(words: list[str], log: Path, seconds: float) -> str | None:
        started.append(words[-1])
        if words[-1] == slow:
            return None
        if words[-1] == crashing:
            monkeypatch.setattr(sys, "executable", "false")
            return real(words, log, seconds)
        wanted[0].save(tmp_path, figures(wanted[0]))
        return ""

    real = gpu.child
    monkeypatch.setattr(gpu, "child", process)
    for _ in range(2):
        gpu.run(wanted, tmp_path, [], 25)
    assert started == [case.name for case in wanted]
    found = {case.name: json.loads(case.file(tmp_path).read_text()) for case in wanted}
    assert found[crashing] == {"failed": "status 1: "}
    assert found[slow] == {"failed": "takes more than 240 s"}
    table = gpu.report([(case, found[case.name]) for case in wanted], tmp_path)
    assert "| padded | failed: status 1:" in table
    assert (tmp_path / "table.md").read_text() == table


def test_a_case_that_has_no_time_left_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "child", lambda *_: None)
    gpu.run(cases(TOY)[:1], tmp_path, [], 1)
    assert not list(tmp_path.iterdir())


def test_what_a_process_says_last_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'torch.OutOfMemoryError: CUDA out of memory.' >&2\necho bye >&2\nexit 7\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert gpu.child([], tmp_path / "log.txt", 60) == "status 7: torch.OutOfMemoryError: CUDA out of memory."
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    assert gpu.child([], tmp_path / "log.txt", 0.1) is None


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"seconds": [0.1] * 10}, "| 0.100 | 40.00 | 20.00 | 34,400 | 40.4% | 50.0% | 40.0 | 5.0 | – | yes"),
        ({"grad_norm": [2.2] * 10}, "| – | – | **no**: 0e+00, 1e-01 |"),
        ({"loss": [float("nan")] * 10}, "| – | – | **no**: nan"),
        ({"device": "another card"}, "| – | – | – |"),
    ],
)
def test_a_ratio_wants_the_same_numbers_on_the_same_card(tmp_path: Path, changed: Any, shown: str) -> None:
    trl, _, packed = cases(REAL)[:3]
    table = gpu.report([(trl, figures(trl)), (packed, figures(packed, **changed))], tmp_path)
    (line,) = [line for line in table.splitlines() if line.startswith("| packed |")]
    assert shown in line


def test_a_case_of_ours_trains_as_the_job_does(tmp_path: Path) -> None:
    """One of them, quickly: its functions are the job's own, which change."""
    case, *_ = [case for case in cases(TOY) if case.train == "full" and not case.is_trl]
    gpu.prepare(TOY, tmp_path / "inputs")
    gpu.command(["--toy", "--out", str(tmp_path), "--case", case.name])
    assert len(set(json.loads(case.file(tmp_path).read_text())["loss"])) == TOY.steps


@pytest.mark.slow
def test_all_of_it_runs_at_toy_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl", reason="the benchmark's other side, TRL, is not installed")
    gpu.command(["--all", "--toy", "--out", str(tmp_path)])
    found = {case: json.loads(case.file(tmp_path).read_text()) for case in cases(TOY)}
    reasons = {case.name: why for case, row in found.items() for kind, why in row.items() if kind == "failed"}
    assert not reasons
    ways = {case.way for case, row in found.items() if "seconds" in row}
    assert {"TRL as shipped", "TRL tuned", "padded", "packed", "packed, AdamW"} <= ways
    for case, row in found.items():
        assert "seconds" in row or row["skipped"].startswith(("model.", "optimizer"))
        assert case.way not in ("padded", "packed, AdamW") or len(set(row["loss"])) == TOY.steps  # weights changed
    assert "**no**" not in capsys.readouterr().out
    assert (tmp_path / "figure.svg").exists()
