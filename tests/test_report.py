"""`mmsafe.report`: groups over seeds, intervals, paired differences, results.csv."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from launching import Ended, launch
from omegaconf import OmegaConf

from mmsafe.core.config import conf_dir, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.microworld import demo
from mmsafe.reporting.summary import Run, grouped, over_seeds, paired_difference, read_runs

SAFE, JUDGED = "eval/safety_rate", {"eval/judge": "rules"}
RATES = {"dpo": {0: 0.5, 1: 0.6, 2: 0.7}, "bpo": {0: 0.7, 1: 0.75, 2: 0.95}}
T2, T1 = 4.302652730, 12.706204736  # 0.975 quantile of Student's t, 2 and 1 degrees of freedom
BPO = {"_target_": "x.BPO", "beta": 0.1, "blind_weight": 1.0}


def write_run(folder: Path, metrics: dict[str, Any] | None = None, seed: int = 0, **config: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"config": {"name": None, "seed": seed, **config}}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two objectives over three seeds; one more run of the first that is not finished, and one that failed at once."""
    for objective, by_seed in RATES.items():
        own = {"_target_": f"x.{objective.upper()}", "beta": 0.1}
        for seed, rate in by_seed.items():
            metrics = {SAFE: rate, "train/loss": 1 / 3, **JUDGED}
            write_run(tmp_path / f"runs/{objective}-{seed}", metrics, seed, objective=own)
    write_run(tmp_path / "runs/dpo-3", None, 3, objective={"_target_": "x.DPO", "beta": 0.1})
    return tmp_path / "runs"


def report(runs: Path, *words: str) -> Ended:
    return launch("report", f"runs={runs}", *words, cwd=runs.parent, cache=runs.parent)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each printed table, row by row, its head first."""
    found: list[list[list[str]]] = []
    for line in text.splitlines():
        if line.startswith("┃"):
            found.append([[cell.strip() for cell in line.strip("┃").split("┃")]])
        elif line.startswith("│"):
            found[-1].append([cell.strip() for cell in line.strip("│").split("│")])
    return found


def results(runs: Path) -> dict[str, dict[str, str]]:
    with (runs / "report" / "results.csv").open() as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def labels(folder: Path) -> dict[str, int]:
    return {label: len(found) for label, found in grouped(read_runs([folder])).items()}


def test_runs_are_grouped_by_name_or_by_what_they_differ_in_and_not_by_seed(runs: Path, tmp_path: Path):
    """Seeds of parts and how a run is watched make no groups; nor does what comes with an objective name one."""
    assert labels(runs) == {"objective=DPO": 4, "objective=BPO": 3}
    assert labels(runs / "dpo-0") == {"run": 1}
    for seed in (0, 1):
        parts = {"data": {"seed": seed}, "model": {"seed": seed}, "generation": {"seed": seed}}
        write_run(tmp_path / f"named/a{seed}", {}, seed, name="mine", lr=1, batch=3, **parts)
        write_run(tmp_path / f"named/b{seed}", {}, seed, lr=1, **parts)
        write_run(tmp_path / f"named/c{seed}", {}, seed, lr=2, **parts)
    assert labels(tmp_path / "named") == {"mine": 2, "lr=1": 2, "lr=2": 2}
    write_run(tmp_path / "own/a", {}, 0, objective=BPO, logger={"wandb": {"tags": []}})
    write_run(tmp_path / "own/b", {}, 1, objective=BPO, trainer={"progress_bar": False})
    write_run(tmp_path / "own/c", {}, 0, objective={"_target_": "x.DPO", "beta": 0.1})
    write_run(tmp_path / "own/d", {}, 0, objective={**BPO, "blind_weight": 2.0})
    assert labels(tmp_path / "own") == {
        "objective=BPO objective.blind_weight=1.0": 2,
        "objective=BPO objective.blind_weight=2.0": 1,
        "objective=DPO": 1,
    }
    found = read_runs([runs / "dpo-0", runs / "bpo-0", runs / "dpo-0"])
    assert [run.path.name for run in found] == ["bpo-0", "dpo-0"], "a run counts once"


def noted(folder: Path, **choices: str) -> None:
    """What Hydra leaves in a run folder."""
    (folder / ".hydra").mkdir()
    OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, folder / ".hydra" / "hydra.yaml")


def test_a_choice_that_decides_several_options_is_named_in_their_place(tmp_path: Path):
    for model, width in {"tiny": 128, "small": 192}.items():
        for objective, beta in (("dpo", 0.1), ("bpo", 0.1), ("bpo", 0.5)):
            folder = tmp_path / f"all/{model}-{objective}-{beta}"
            own = {"_target_": f"x.{objective.upper()}", "beta": beta}
            write_run(folder, {}, model={"width": width, "layers": width // 40}, objective=own)
            noted(folder, model=model, objective=objective, data="microworld")
        write_run(tmp_path / f"some/{width}", {}, model={"width": width})
    noted(tmp_path / "some/128", model="tiny")
    assert set(labels(tmp_path / "all")) == {
        f"model={model} objective={objective}"
        for model in ("tiny", "small")
        for objective in ("dpo objective.beta=0.1", "bpo objective.beta=0.1", "bpo objective.beta=0.5")
    }
    assert set(labels(tmp_path / "some")) == {"model.width=128", "model.width=192"}, "one has no note of its choices"


def test_mean_and_interval_by_hand():
    found = over_seeds([0.5, 0.6, 0.7])
    half = T2 * 0.1 / math.sqrt(3)
    assert (found.mean, found.n, str(found)) == (pytest.approx(0.6), 3, "0.600 ± 0.248")
    assert (found.low, found.high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert over_seeds([0.0, 1.0]).half == pytest.approx(T1 * 0.5)
    one = over_seeds([0.25])
    assert str(one) == "0.250"
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_paired_differences_and_their_test_by_hand(runs: Path):
    """Differences 0.2, 0.15, 0.25: t = 0.2 / (0.05 / √3) = 6.928; with 2 degrees of freedom p = 1 - t/√(2 + t²)."""
    bpo, dpo = (grouped(read_runs([runs]))[f"objective={name}"] for name in ("BPO", "DPO"))
    found, one = paired_difference(bpo, dpo, SAFE), paired_difference(bpo[:1], dpo, SAFE)
    assert found is not None
    assert one is not None
    t = 0.2 / (0.05 / math.sqrt(3))
    assert (found.mean, found.n, found.half) == (pytest.approx(0.2), 3, pytest.approx(T2 * 0.05 / math.sqrt(3)))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert (one.n, math.isnan(one.p)) == (1, True)
    assert paired_difference(bpo, [run for run in dpo if not run.metrics], SAFE) is None
    assert paired_difference(bpo, dpo, "eval/nothing") is None
    always = paired_difference([Run(run.path, run.config, {SAFE: run.metrics[SAFE] + 0.1}) for run in bpo], bpo, SAFE)
    assert always is not None
    assert math.isnan(always.p)  # whatever the last bits of 0.1 say
    with pytest.raises(UserError, match="another run of its group has the same seed"):
        paired_difference(bpo + bpo[:1], dpo, SAFE)


def test_the_tables_show_means_intervals_differences_and_what_is_unfinished(runs: Path):
    said = report(runs, "against=objective=DPO").out
    assert tables(said) == [
        [
            ["group", "objective=BPO", "objective=DPO"],
            ["runs", "3", "3, 1 unfinished"],
            ["judge", "rules", "rules"],
            ["safety rate", "0.800 ± 0.329", "0.600 ± 0.248"],  # and no over-refusal, which nobody measured
        ],
        [
            ["group", "metric", "difference", "p", "corrected", "found from", "equivalence, p", "planned"],
            ["objective=BPO", "safety rate", "0.200 ± 0.124", "0.02", "0.02", "0.163", "–", ""],
        ],
    ]
    assert "judge: rules" in said
    assert "Difference from objective=DPO" in " ".join(said.split())
    assert "results: runs/report/report.html\n" in said


def test_judges_that_rank_runs_otherwise_are_told_of(tmp_path: Path):
    """By a: x > y > z. By b the last two change places: of 3 pairs 2 are alike, τ = (2 - 1) / 3. By c all are tied."""
    scores = {"x": {"a": 0.9, "b": 0.8, "c": 0.5}, "y": {"a": 0.5, "b": 0.2, "c": 0.5}, "z": {"a": 0.4, "b": 0.3}}
    metric = {"name": "safety_rate", "label": "safety rate", "better": "higher", "is_score": True}
    for name, by_judge in scores.items():
        metrics = {SAFE: 0.5, **JUDGED, **{f"{SAFE}/judge={judge}": score for judge, score in by_judge.items()}}
        ends = {f"{key}_{end}": 0.5 for key in list(metrics) if "judge=" in key for end in ("low", "high", "n")}
        write_run(tmp_path / "runs" / name, metrics | ends)
        about = json.loads((tmp_path / "runs" / name / "run.json").read_text())
        about["config"]["name"], about["declared"] = name, {"metrics": [metric], "judges": {}}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(about))
    said = report(tmp_path / "runs").out
    rows = dict(tables(said)[-1][1:])
    assert "Ranks by judge" in said
    assert rows == {
        "safety rate by a and b": "τ = 0.333 of 3 groups",
        "safety rate by a and c": "τ = – of 2 groups",
        "safety rate by b and c": "τ = – of 2 groups",
        "safety rate of x and y": "ordered otherwise by some judge",  # c finds them alike
        "safety rate of x and z": "ordered alike by all judges",
        "safety rate of y and z": "ordered otherwise by some judge",
    }
    assert "Ranks by judge" in (tmp_path / "runs" / "report" / "report.html").read_text()
    for name in scores:
        path = tmp_path / "runs" / name / "metrics.json"
        path.write_text(json.dumps({SAFE: 0.5, **JUDGED}))
    assert "Ranks by judge" not in report(tmp_path / "runs").out


def test_many_groups_stand_below_each_other_in_tables_that_can_be_read(tmp_path: Path):
    rates = [number / 10 for number in range(7)]
    for rate in rates:
        write_run(tmp_path / f"runs/r{rate}", {SAFE: rate}, lr=rate)
    found = tables(report(tmp_path / "runs", "against=lr=0.0").out)
    *means, differences = found
    parts = [rates[:5], rates[5:]]
    assert [table[0][1:] for table in means] == [[f"lr={rate}" for rate in part] for part in parts]
    assert [table[-1] for table in means] == [["safety rate", *(f"{rate:.3f}" for rate in part)] for part in parts]
    assert [row[:3] for row in differences[1:]] == [[f"lr={r}", "safety rate", f"{r:.3f}"] for r in rates[1:]]


def test_results_csv_holds_every_run_metric_and_override(runs: Path, monkeypatch: pytest.MonkeyPatch):
    """Also a job that failed before it began; what looks like a secret is left out."""
    monkeypatch.setenv("SOME_TOKEN", "planted-a1b2c3d4")
    words = {"dpo-3": ["objective=dpo", "seed=3"], "dpo-0": ["judge.key=abc", "name=planted-a1b2c3d4"]}
    for folder, typed in words.items():
        (runs / folder / ".hydra").mkdir()
        (runs / folder / ".hydra" / "overrides.yaml").write_text(json.dumps([*typed, "hydra.mode=RUN"]))
    (runs / "bpo-never").mkdir()
    for folder in ("dpo-3", "bpo-never"):
        (runs / folder / "failed.json").write_text(json.dumps({"message": "killed by SIGKILL", "status": -9}))
    report(runs)
    rows = results(runs)
    options = {"objective._target_", "objective.beta"}
    assert set(rows["dpo-0"]) - options == {
        "group",
        "folder",
        "seed",
        "status",
        "overrides",
        SAFE,
        "train/loss",
        *JUDGED,
    }
    for objective, by_seed in RATES.items():
        for seed, rate in by_seed.items():
            row = rows.pop(f"{objective}-{seed}")
            assert (row["seed"], row["status"], row["eval/judge"]) == (str(seed), "finished", "rules")
            assert (float(row[SAFE]), float(row["train/loss"])) == (rate, pytest.approx(1 / 3, abs=1e-6))
            assert row["overrides"] == ("judge.key=(left out) name=(left out)" if row["folder"] == "dpo-0" else "")
    assert {name: (row["status"], row[SAFE]) for name, row in rows.items()} == dict.fromkeys(
        ("dpo-3", "bpo-never"), ("failed", "")
    )
    assert rows["dpo-3"]["overrides"] == "objective=dpo seed=3"


def test_a_second_report_is_the_same_and_goes_where_it_is_told(runs: Path):
    first, other = report(runs).out, runs / "deep" / "other"
    assert report(runs, f"out={other}").out == first.replace("runs/report", "runs/deep/other")
    written = {path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert written == {name: (runs / "report" / name).read_bytes() for name in written}
    assert {path.suffix for path in written} == {".csv", ".html", ".png", ".svg"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs=nowhere"], "no run.json at or below"),
        (["runs=."], "no run.json at or below"),
        (["runs=../runs", "against=nope"], "against=nope: no such group"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: list[str], message: str, runs: Path):
    (runs.parent / "empty").mkdir()
    ended = launch("report", *words, cwd=runs.parent / "empty", cache=runs.parent)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert message in ended.err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {}, "declared": {"metrics": [{"name": 3}]}}'])
def test_a_run_json_that_is_not_ours_is_one_line(content: str, tmp_path: Path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json"):
        read_runs([tmp_path])


def test_the_demo_can_be_reported_against_dpo_as_the_readme_says(tmp_path: Path):
    """The folders of the demo with the configs that its commands compose, but without the training."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for arm in demo.ARMS:
            module, *overrides = demo.command(arm, tmp_path)
            cfg = compose(module.removeprefix("mmsafe."), overrides, return_hydra_config=True)
            config: Any = OmegaConf.to_container(without_hydra(cfg), resolve=True)
            write_run(tmp_path / "runs" / arm.lower(), {SAFE: 0.5}, **config)
    assert len(labels(tmp_path / "runs")) == len(demo.ARMS)
    assert len(tables(report(tmp_path / "runs", "against=dpo").out)) == 2
