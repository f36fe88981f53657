"""`mmsafe.report`: groups over seeds, intervals, paired differences, results.csv."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mmsafe.core.config import conf_dir
from mmsafe.core.errors import UserError
from mmsafe.microworld import demo
from mmsafe.report import main
from mmsafe.reporting.summary import Run, grouped, over_seeds, paired_difference, read_runs
from mmsafe.runs.preflight import without_hydra

SAFE, JUDGED = "eval/safety_rate", {"eval/judge": "rules"}
RATES = {"dpo": {0: 0.5, 1: 0.6, 2: 0.7}, "bpo": {0: 0.7, 1: 0.75, 2: 0.95}}
T2, T1 = 4.302652730, 12.706204736  # 0.975 quantile of Student's t, 2 and 1 degrees of freedom


def write_run(folder: Path, config: dict[str, Any], metrics: dict[str, Any] | None) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"config": config}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two objectives over three seeds; and one more run of the first objective that is not finished."""
    for objective, by_seed in RATES.items():
        for seed, rate in by_seed.items():
            config = {"name": None, "seed": seed, "objective": {"_target_": f"x.{objective.upper()}", "beta": 0.1}}
            write_run(tmp_path / f"{objective}-{seed}", config, {SAFE: rate, "train/loss": 1 / 3, **JUDGED})
    unfinished = {"name": None, "seed": 3, "objective": {"_target_": "x.DPO", "beta": 0.1}}
    write_run(tmp_path / "dpo-3", unfinished, None)
    return tmp_path


def report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: Any) -> str:
    main([str(word) if "=" in str(word) else f"runs={word}" for word in words])
    return capsys.readouterr().out


def row(output: str, label: str) -> list[str]:
    """The cells of the last row that begins with `label`."""
    (*_, line) = [line for line in output.splitlines() if label in line]
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def test_runs_are_grouped_by_what_they_differ_in_and_not_by_seed(runs: Path):
    groups = grouped(read_runs([runs]))
    assert {label: len(found) for label, found in groups.items()} == {"objective=DPO": 4, "objective=BPO": 3}


def test_seeds_of_the_parts_make_no_groups_and_names_make_groups(tmp_path: Path):
    for seed in (0, 1):
        parts = {"data": {"seed": seed}, "model": {"seed": seed}, "generation": {"seed": seed}}
        write_run(tmp_path / f"a{seed}", {"name": "mine", "seed": seed, "lr": 1, **parts}, {})
        write_run(tmp_path / f"b{seed}", {"name": None, "seed": seed, "lr": 1, **parts}, {})
        write_run(tmp_path / f"c{seed}", {"name": None, "seed": seed, "lr": 2, **parts}, {})
    groups = grouped(read_runs([tmp_path]))
    assert {label: len(found) for label, found in groups.items()} == {"mine": 2, "lr=1": 2, "lr=2": 2}


def noted(folder: Path, **choices: str) -> None:
    """What Hydra leaves in a run folder."""
    (folder / ".hydra").mkdir()
    OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, folder / ".hydra" / "hydra.yaml")


def test_a_choice_that_decides_several_options_is_named_in_their_place(tmp_path: Path):
    sizes = {"tiny": {"width": 128, "layers": 3}, "small": {"width": 192, "layers": 4}}
    for model, size in sizes.items():
        for objective, beta in (("dpo", 0.1), ("bpo", 0.1), ("bpo", 0.5)):
            folder = tmp_path / f"{model}-{objective}-{beta}"
            config = {"name": None, "seed": 0, "model": size}
            write_run(folder, {**config, "objective": {"_target_": f"x.{objective.upper()}", "beta": beta}}, {})
            noted(folder, model=model, objective=objective, data="microworld")
    assert sorted(grouped(read_runs([tmp_path]))) == [
        "model=small objective=bpo objective.beta=0.1",
        "model=small objective=bpo objective.beta=0.5",
        "model=small objective=dpo objective.beta=0.1",
        "model=tiny objective=bpo objective.beta=0.1",
        "model=tiny objective=bpo objective.beta=0.5",
        "model=tiny objective=dpo objective.beta=0.1",
    ]


def test_where_a_run_has_no_note_of_its_choices_the_options_are_named(tmp_path: Path):
    for width in (128, 192):
        write_run(tmp_path / f"{width}", {"name": None, "seed": 0, "model": {"width": width}}, {})
    noted(tmp_path / "128", model="tiny")
    assert sorted(grouped(read_runs([tmp_path]))) == ["model.width=128", "model.width=192"]


def test_a_run_with_a_name_makes_no_labels_of_others_longer(tmp_path: Path):
    write_run(tmp_path / "base", {"name": "base", "seed": 0, "lr": 1, "batch": 1}, {})
    write_run(tmp_path / "a", {"name": None, "seed": 0, "lr": 1, "batch": 2}, {})
    write_run(tmp_path / "b", {"name": None, "seed": 0, "lr": 2, "batch": 2}, {})
    assert sorted(grouped(read_runs([tmp_path]))) == ["base", "lr=1", "lr=2"]


def test_one_run_alone_is_a_group(tmp_path: Path):
    write_run(tmp_path / "only", {"name": None, "seed": 0, "lr": 1}, {SAFE: 1.0})
    assert list(grouped(read_runs([tmp_path / "only"]))) == ["run"]


def test_mean_and_interval_by_hand():
    found = over_seeds([0.5, 0.6, 0.7])
    half = T2 * 0.1 / math.sqrt(3)
    assert (found.mean, found.n) == (pytest.approx(0.6), 3)
    assert (found.low, found.high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert str(found) == "0.600 ± 0.248"
    two = over_seeds([0.0, 1.0])
    assert two.high - two.mean == pytest.approx(T1 * 0.5)


def test_one_seed_has_no_interval():
    found = over_seeds([0.25])
    assert str(found) == "0.250"
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_paired_differences_use_the_seeds_that_both_have(runs: Path):
    groups = grouped(read_runs([runs]))
    found = paired_difference(groups["objective=BPO"], groups["objective=DPO"], SAFE)
    assert found is not None
    differences = [0.2, 0.15, 0.25]
    spread = math.sqrt(sum((d - 0.2) ** 2 for d in differences) / 2 / 3)
    assert (found.mean, found.n) == (pytest.approx(0.2), 3)
    assert found.high - found.mean == pytest.approx(T2 * spread)
    unfinished = [run for run in groups["objective=DPO"] if not run.metrics]
    assert paired_difference(groups["objective=BPO"], unfinished, SAFE) is None
    assert paired_difference(groups["objective=BPO"], groups["objective=DPO"], "eval/nothing") is None
    one = paired_difference(groups["objective=BPO"][:1], groups["objective=DPO"], SAFE)
    assert one is not None
    assert one.n == 1


def test_the_table_shows_means_intervals_and_what_is_unfinished(runs: Path, capsys: Any, monkeypatch: Any):
    output = report(capsys, monkeypatch, runs)
    assert row(output, "safety rate") == ["safety rate", "0.800 ± 0.329", "0.600 ± 0.248"]
    assert "3, 1 unfinished" in output
    assert "over-refusal" not in output  # nobody measured it


def test_against_adds_the_paired_differences(runs: Path, capsys: Any, monkeypatch: Any):
    output = report(capsys, monkeypatch, runs, "against=objective=DPO")
    assert "Difference from objective=DPO, paired by seed" in " ".join(output.split())
    assert row(output, "safety rate") == ["safety rate", "0.200 ± 0.124"]


def test_many_groups_stand_below_each_other_in_tables_that_can_be_read(tmp_path: Path, capsys: Any, monkeypatch: Any):
    rates = [number / 10 for number in range(7)]
    for rate in rates:
        write_run(tmp_path / f"r{rate}", {"name": None, "seed": 0, "lr": rate}, {SAFE: rate})
    output = report(capsys, monkeypatch, tmp_path, "against=lr=0.0")
    labels = [f"lr={rate}" for rate in rates]
    heads = [line for line in output.splitlines() if "group" in line]
    assert [[label for label in labels if label in head] for head in heads] == [labels[:5], labels[5:], [], []]
    assert [[rate for rate in rates if f"lr={rate} " in head] for head in heads[2:]] == [rates[1:6], rates[6:]]
    values = [line.split("│")[2:-1] for line in output.splitlines() if "safety rate" in line]
    assert [[float(value) for value in found] for found in values] == [rates[:5], rates[5:], rates[1:6], rates[6:]]


def test_results_csv_holds_every_run_and_metric(runs: Path, capsys: Any, monkeypatch: Any):
    report(capsys, monkeypatch, runs)
    with (runs / "report" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    about = {"group", "folder", "seed", "status", "objective._target_", "overrides"}
    assert set(rows[0]) == {*about, SAFE, "train/loss", "eval/judge"}
    by_folder = {found["folder"]: found for found in rows}
    for objective, by_seed in RATES.items():
        for seed, rate in by_seed.items():
            found = by_folder[f"{objective}-{seed}"]
            assert found["group"] == f"objective={objective.upper()}"
            assert (found["seed"], found["status"], found["eval/judge"]) == (str(seed), "finished", "rules")
            assert float(found[SAFE]) == rate
            assert float(found["train/loss"]) == pytest.approx(1 / 3, abs=1e-6)
    assert by_folder["dpo-3"]["status"] == "unfinished"
    assert by_folder["dpo-3"][SAFE] == ""


def test_a_second_report_is_the_same_and_goes_where_it_is_told(runs: Path, capsys: Any, monkeypatch: Any):
    first, other = report(capsys, monkeypatch, runs), runs / "deep" / "other"
    second = report(capsys, monkeypatch, runs, f"out={other}")
    assert second == first.replace(str(runs / "report"), str(other))
    assert f"results: {runs}/report/report.html\n" in first
    written = {path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert written == {name: (runs / "report" / name).read_bytes() for name in written}
    assert {path.suffix for path in written} == {".csv", ".html", ".png", ".svg"}


def test_several_folders_are_one_table_and_a_run_counts_once(runs: Path):
    found = read_runs([runs / "dpo-0", runs / "bpo-0", runs / "dpo-0"])
    assert [run.path.name for run in found] == ["bpo-0", "dpo-0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no run.json at or below"),
        (["."], "no run.json at or below"),
        (["RUNS", "against=nope"], "against=nope: no such group"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: list[str], message: str, runs: Path, tmp_path_factory: Any, capsys: Any, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    with pytest.raises(SystemExit) as ended:
        report(capsys, monkeypatch, *[str(runs) if word == "RUNS" else word for word in words])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_job_that_failed_before_it_began_is_in_the_table_too(runs: Path, capsys: Any, monkeypatch: Any):
    (runs / "bpo-never").mkdir()
    (runs / "bpo-never" / "failed.json").write_text(json.dumps({"message": "killed by SIGKILL", "status": -9}))
    report(capsys, monkeypatch, str(runs))
    with (runs / "report" / "results.csv").open() as file:
        status = {row["folder"]: row["status"] for row in csv.DictReader(file)}
    assert status["bpo-never"] == "failed"


RECORDED = '{"config": {}, "declared": {"metrics": [{"name": 3}]}}'


@pytest.mark.parametrize("content", ["{", "[]", "{}", RECORDED], ids=["broken", "list", "of another tool", "record"])
def test_a_run_json_that_is_not_ours_is_one_line(content: str, tmp_path: Path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json"):
        read_runs([tmp_path])


def test_the_demo_can_be_reported_against_dpo_as_the_readme_says(tmp_path: Path, capsys: Any, monkeypatch: Any):
    """The folders of the demo with the configs that its commands compose, but without the training."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for arm in demo.ARMS:
            module, *overrides = demo.command(arm, tmp_path)
            cfg = compose(module.removeprefix("mmsafe."), overrides, return_hydra_config=True)
            config = OmegaConf.to_container(without_hydra(cfg), resolve=True)
            write_run(tmp_path / arm.lower(), config, {SAFE: 0.5})  # type: ignore[arg-type]
    assert len(grouped(read_runs([tmp_path]))) == len(demo.ARMS)
    output = report(capsys, monkeypatch, tmp_path, "against=dpo")
    assert "Difference from dpo" in " ".join(output.split())


def test_options_that_come_with_an_objective_name_no_group(tmp_path: Path):
    """`blind_weight` is the same in all that have it, and how a run is watched makes no difference."""
    bpo = {"_target_": "x.BPO", "beta": 0.1, "blind_weight": 1.0}
    write_run(tmp_path / "a", {"name": None, "seed": 0, "objective": bpo, "logger": {"wandb": {"tags": []}}}, {})
    write_run(tmp_path / "b", {"name": None, "seed": 1, "objective": bpo, "trainer": {"progress_bar": False}}, {})
    write_run(tmp_path / "c", {"name": None, "seed": 0, "objective": {"_target_": "x.DPO", "beta": 0.1}}, {})
    write_run(tmp_path / "d", {"name": None, "seed": 0, "objective": {**bpo, "blind_weight": 2.0}}, {})
    assert {label: len(found) for label, found in grouped(read_runs([tmp_path])).items()} == {
        "objective=BPO objective.blind_weight=1.0": 2,
        "objective=BPO objective.blind_weight=2.0": 1,
        "objective=DPO": 1,
    }


def test_a_failed_job_and_the_overrides_of_all(runs: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setenv("SOME_TOKEN", "planted-a1b2c3d4")
    for folder, words in {
        "dpo-3": ["objective=dpo", "seed=3"],
        "dpo-0": ["judge.key=abc", "name=planted-a1b2c3d4"],
    }.items():
        (runs / folder / ".hydra").mkdir()
        (runs / folder / ".hydra" / "overrides.yaml").write_text(json.dumps([*words, "hydra.mode=RUN"]))
    (runs / "dpo-3" / "failed.json").write_text(json.dumps({"message": "killed by SIGKILL", "status": -9}))
    report(capsys, monkeypatch, runs)
    with (runs / "report" / "results.csv").open() as file:
        rows = {found["folder"]: found for found in csv.DictReader(file)}
    assert (rows["dpo-3"]["status"], rows["dpo-3"]["overrides"]) == ("failed", "objective=dpo seed=3")
    assert rows["dpo-0"]["overrides"] == "judge.key=(left out) name=(left out)"
    assert rows["dpo-1"]["overrides"] == ""


def test_paired_test_by_hand(runs: Path):
    """Differences 0.2, 0.15, 0.25: t = 0.2 / (0.05 / √3) = 6.928; with 2 degrees of freedom p = 1 - t/√(2 + t²)."""
    groups = grouped(read_runs([runs]))
    found = paired_difference(groups["objective=BPO"], groups["objective=DPO"], SAFE)
    t = 0.2 / (0.05 / math.sqrt(3))
    assert found is not None
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    same = [Run(run.path, run.config, {SAFE: run.metrics[SAFE] + 0.1}) for run in groups["objective=BPO"]]
    always = paired_difference(same, groups["objective=BPO"], SAFE)
    assert always is not None
    assert math.isnan(always.p)  # whatever the last bits of 0.1 say
    alone = paired_difference(groups["objective=BPO"][:1], groups["objective=DPO"], SAFE)
    assert alone is not None
    assert math.isnan(alone.p)


def test_seed_of_a_run_is_that_of_its_config(tmp_path: Path):
    assert Run(tmp_path, {"seed": 4}, {}).seed == 4
