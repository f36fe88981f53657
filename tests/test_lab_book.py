"""The lab book: every page has its parts, its tables say what its results.csv does, and its commands can be run."""

import csv
import math
import os
import re
import runpy
import shlex
import shutil
import stat
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import pytest
from launching import launch
from PIL import Image
from roots import ROOTS
from scipy.stats import t

from mmsafe.evaluation.benchmarks.paper import PaperTables
from mmsafe.runs.plan import Plan, read_plan
from mmsafe.runs.preflight import check

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "experiments"
PAGES = sorted(path.parent.name for path in BOOK.glob("*/run.sh") if "page.py" in path.read_text(encoding="utf-8"))
"""Those of one form; `rounding` shows curves."""
WITH_RESULTS = [name for name in PAGES if (BOOK / name / "results.csv").exists()]
NOT_RUN = "**Verdict.** Not run yet: no result is claimed."
T = {2: 12.706205, 3: 4.302653, 4: 3.182446, 5: 2.776445, 6: 2.570582, 10: 2.262157}
"""0.975 quantile of Student's t for a mean over so many seeds."""
METRICS = {
    "safety rate": "eval/safety_rate",
    "over-refusal": "eval/over_refusal_rate",
    "cheating gap": "eval/cheating_gap",
    "both images right": "eval/both_right",
    "neutral questions": "eval/neutral_accuracy",
    "fluent": "eval/fluent_rate",
    "pairwise, log-prob": "eval/pairwise_accuracy",
    "pairwise, reward": "eval/pairwise_accuracy_reward",
}
HALF_A_DIGIT = 0.0005 + 1e-6
NUMBER = r"[+−]?\d\.\d{3}"


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> Path:
    return BOOK / str(request.param)


@pytest.fixture(params=WITH_RESULTS)
def result(request: pytest.FixtureRequest) -> Path:
    """A page whose experiment was run."""
    return BOOK / str(request.param)


def seeds_asked(page: Path) -> list[str]:
    return [str(seed) for seed in planned(page).seeds]


def seeds_of(page: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Of each arm, as its page calls it, and each metric: the value of every seed."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with (page / "results.csv").open() as file:
        for row in csv.DictReader(file):
            for name, column in METRICS.items():
                if row.get(column):
                    found[row["group"]][name][row["seed"]] = float(row[column])
    return found


def table(page: Path, first: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has this head."""
    lines = (page / "README.md").read_text(encoding="utf-8").split("<!-- results -->")[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    head = [name.strip(" ↑↓") for name in lines[start].strip("|").split("|")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=True)))
    return rows


def numbers(cell: str) -> list[float]:
    return [float(number.replace("−", "-")) for number in re.findall(NUMBER, cell)]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % Student t interval."""
    return mean(values), T[len(values)] * stdev(values) / math.sqrt(len(values))


def test_the_pages_are_those_of_the_sweeps():
    assert {"blindness", "beta", "datasets", "joint_vs_concat", "model_size", "objectives"} < set(PAGES)


def test_a_page_has_all_its_parts(page: Path):
    text = (page / "README.md").read_text(encoding="utf-8")
    for part in ("**Question.**", "**Command.**", f"bash experiments/{page.name}/run.sh", "**Result**"):
        assert part in text, part
    assert "TODO" not in text
    if page.name not in WITH_RESULTS:
        assert NOT_RUN in text
        assert not (page / "figure.png").exists()
        return
    assert NOT_RUN not in text
    assert "**Verdict**\n\n- " in text
    assert "![figure](figure.png)" in text
    with Image.open(page / "figure.png") as figure:
        assert figure.width > figure.height > 300


def test_every_run_of_a_page_is_finished_and_every_arm_has_its_seeds(result: Path):
    with (result / "results.csv").open() as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"finished"}
    arms = seeds_of(result)
    assert len(arms) >= 4
    (found,) = {tuple(by_metric["safety rate"]) for by_metric in arms.values()}
    assert [*found] == seeds_asked(result)


def test_means_and_intervals_are_those_of_the_results(result: Path):
    arms, rows = seeds_of(result), table(result, "arm")
    assert {row["arm"] for row in rows} == set(arms)
    for row in rows:
        assert int(row["seeds"]) == len(arms[row["arm"]]["safety rate"])
        for name in METRICS.keys() & row.keys():
            found = arms[row["arm"]][name]
            expected = interval(list(found.values())) if found else ()
            assert numbers(row[name]) == pytest.approx(expected, abs=HALF_A_DIGIT), (row["arm"], name)


def test_differences_are_paired_by_seed_and_bold_where_they_exclude_zero(result: Path):
    arms = seeds_of(result)
    for row in table(result, "difference"):
        first, second = row["difference"].split(" − ")
        for name in METRICS.keys() & row.keys():
            a, b = arms[first][name], arms[second][name]
            centre, half = interval([a[seed] - b[seed] for seed in a])
            assert numbers(row[name]) == pytest.approx([centre, centre - half, centre + half], abs=HALF_A_DIGIT)
            assert row[name].startswith("**") == (abs(centre) > half), (row["difference"], name)
        a, b = arms[first]["both images right"], arms[second]["both images right"]
        more = sum(a[seed] - b[seed] > 1e-6 for seed in a)
        assert row["seeds with more of both right"] == f"{more} of {len(a)}"


def test_a_page_says_what_is_left_of_its_differences_after_a_correction_for_their_number(result: Path):
    """What a plan names is corrected by itself, in a table of its own."""
    arms, rows, plan = seeds_of(result), table(result, "difference"), planned(result)
    p, bold = {}, 0
    for row in rows:
        first, second = row["difference"].split(" − ")
        for name in METRICS.keys() & row.keys():
            if not plan.holds(first, second, METRICS[name]):
                p[f"{row['difference']}, {name}"] = p_value(arms, first, second, name)
                bold += row[name].startswith("**")
    corrected = holm(p)
    text = (result / "README.md").read_text(encoding="utf-8")
    begin = f"In bold are {bold} of {len(p)}; after Holm's correction for {len(p)} exploratory ones, at 5 %: "
    (line,) = [line.removeprefix(begin) for line in text.splitlines() if line.startswith(begin)]
    parts = re.findall(r"(?:^|; )([^;]+?) \(p = (\d\.\d{3})\)", line.removeprefix("none; next is "))
    said = {name: float(value) for name, value in parts}
    left = {name for name, value in corrected.items() if value < 0.05} or {min(p, key=p.__getitem__)}
    assert said == pytest.approx({name: corrected[name] for name in left}, abs=HALF_A_DIGIT)
    assert line.startswith("none; next is ") == (min(corrected.values()) >= 0.05)


def planned(page: Path) -> Plan:
    return read_plan(page / "plan.yaml")[0]


def p_value(arms: dict[str, dict[str, dict[str, float]]], first: str, second: str, name: str) -> float:
    """Of the paired t test."""
    a, b = arms[first][name], arms[second][name]
    centre, half = interval([a[seed] - b[seed] for seed in a])
    return float(2 * t.sf(abs(centre) * T[len(a)] / half, len(a) - 1))


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm (1979): the i-th smallest of n p-values is multiplied by n - i + 1, and none comes before a smaller one."""
    ranked = sorted(p, key=p.__getitem__)
    before = {name: ranked[: place + 1] for place, name in enumerate(ranked)}
    return {name: min(1.0, max(p[other] * (len(p) - i) for i, other in enumerate(before[name]))) for name in p}


def test_a_plan_s_contrasts_are_corrected_by_themselves_and_held_against_its_margin(result: Path):
    """Equivalence is the larger p of two one-sided t tests (Schuirmann, 1987)."""
    plan, metric = planned(result), "both images right"
    arms, rows = seeds_of(result), table(result, "planned contrast")
    assert plan.primary == METRICS[metric]
    assert plan.correction == "holm"
    contrasts = {name.replace(" - ", " − "): name.split(" - ") for name in plan.contrasts}
    assert [row["planned contrast"] for row in rows] == [*contrasts]
    different, alike = {}, {}
    for name, (first, second) in contrasts.items():
        a, b = arms[first][metric], arms[second][metric]
        centre, half = interval([a[seed] - b[seed] for seed in a])
        different[name] = p_value(arms, first, second, metric)
        error, df = half / T[len(a)], len(a) - 1
        alike[name] = max(t.sf((plan.margin + sign * centre) / error, df) for sign in (1, -1)) if plan.margin else 0.0
    for row in rows:
        name, margin = row["planned contrast"], plan.margin
        shown = {"p": different, "corrected (holm)": holm(different)}
        shown |= {f"within ±{margin:g}, p": alike, "that corrected": holm(alike)} if margin else {}
        for column, values in shown.items():
            if row[column] == "< 0.001":
                assert values[name] < 0.001
            else:
                assert float(row[column]) == pytest.approx(values[name], abs=HALF_A_DIGIT), (name, column)


def commands(page: Path, folder: Path) -> list[list[str]]:
    """The words after `python` of all that a run.sh starts, for one seed."""
    recorder = folder / "recorder"
    recorder.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >> "$RECORD"\necho >> "$RECORD"\n')
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ,
        "PYTHON": str(recorder),
        "RECORD": str(folder / "record"),
        "SEEDS": seeds_asked(page)[0],
    }
    subprocess.run(["bash", str(page / "run.sh")], cwd=folder, env=environment, check=True)
    return [shlex.split(line) for line in (folder / "record").read_text().splitlines()]


def test_every_command_of_a_run_composes_and_ends_in_a_report_and_the_page(page: Path, tmp_path: Path):
    found = commands(page, tmp_path)
    *runs, report, last = found
    assert runs
    for _, module, *words in runs:
        name = module.removeprefix("mmsafe.")
        assert name in ("train", "evaluate")
        check(name, ROOTS[name], words)
    folder = f"outputs/experiments/{page.name}"
    assert all(f"hydra.sweep.dir={folder}" in " ".join(words) for words in runs)
    assert report[1:3] == ["mmsafe.report", f"runs={folder}"]
    assert Path(last[0]).resolve() == BOOK / "page.py"
    assert last[2] == f"{folder}/report/results.csv"


def make_page(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """`python experiments/page.py …` in this process."""
    monkeypatch.setattr(sys, "argv", [str(BOOK / "page.py"), *words])
    runpy.run_path(str(BOOK / "page.py"), run_name="__main__")


def test_a_page_is_what_its_command_makes_of_its_results(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    *_, (_, _, _, *options) = commands(result, tmp_path)
    copy = shutil.copytree(result, tmp_path / result.name)
    (copy / "figure.png").unlink()
    make_page(monkeypatch, str(copy), str(result / "results.csv"), *options)
    assert (copy / "README.md").read_text() == (result / "README.md").read_text()
    assert (copy / "figure.png").exists()


def test_the_page_on_rounding_says_what_its_losses_do():
    page = BOOK / "rounding"
    script = runpy.run_path(str(page / "curves.py"))
    curves = script["read"](page / "results.csv")
    assert {len(runs) for runs in curves.values()} == {5}
    assert script["table"](curves) in (page / "README.md").read_text(encoding="utf-8")


def test_every_claim_of_the_ledger_has_its_form_its_paper_s_number_and_a_command_that_composes(tmp_path: Path):
    page = BOOK / "ledger"
    script = runpy.run_path(str(page / "page.py"))
    rows = script["read"](page / "ledger.csv")
    assert "\n".join(script["rendered"](rows)) in (page / "README.md").read_text(encoding="utf-8")
    printed = [float(row["published"].removesuffix(" %")) for row in rows if row["paper"] == "BPO"]
    assert printed == [number for row in PaperTables.paper_rows for number in (row.base, row.dpo, row.bpo)]
    assert len({row["paper"] for row in rows}) > 10
    for command in {row["command"] for row in rows}:
        _, _, module, *words = shlex.split(command)
        ended = launch(module.removeprefix("mmsafe."), *words, "--cfg", "job", cwd=tmp_path, cache=tmp_path)
        assert ended.status == 0, (command, ended.err)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"verdict": "fine"}, "verdict is none of"),
        ({"ours": "0.5"}, "ours is filled in a row that was not run"),
        ({"verdict": "reproduced"}, "ours is empty"),
        ({"published": "about 0.9"}, "published has another form"),
        ({"source": ""}, "source is empty"),
        (
            {"verdict": "reproduced", "ours": "0.5", "interval": "[0.4, 0.6]", "judge": "rules"}
            | {"published": "not verified"},
            "nothing can be reproduced",
        ),
    ],
)
def test_a_claim_of_another_form_is_told(change: dict[str, str], mistake: str):
    script = runpy.run_path(str(BOOK / "ledger" / "page.py"))
    row = script["read"](BOOK / "ledger" / "ledger.csv")[0]
    assert script["mistake"](row) == ""
    assert mistake in script["mistake"](row | change)


def test_results_of_an_unfinished_run_are_not_put_into_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = shutil.copytree(BOOK / "blindness", tmp_path / "blindness")
    text = (folder / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text.replace(",finished,", ",failed,", 1))
    with pytest.raises(SystemExit, match="did not finish"):
        make_page(monkeypatch, str(folder), str(tmp_path / "results.csv"))
    assert (folder / "results.csv").read_text() == text


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_runs_every_experiment():
    shown = subprocess.run(["make", "-n", "experiments"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"bash experiments/(\w+)/run\.sh", shown) == sorted([*PAGES, "rounding"])


def test_the_list_of_the_book_links_every_page():
    text = (BOOK / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)/README\.md\)", text)) == {path.parent.name for path in BOOK.glob("*/README.md")}


def test_the_book_corrects_the_differences_of_all_pages_together(monkeypatch: pytest.MonkeyPatch):
    """Benjamini and Hochberg (1995): of n p-values the k-th smallest is left if some j ≥ k has p_j ≤ 0.05 j / n."""
    monkeypatch.syspath_prepend(BOOK)
    script, text = runpy.run_path(str(BOOK / "book.py")), (BOOK / "README.md").read_text(encoding="utf-8")
    pages = [BOOK / name for name in WITH_RESULTS]
    assert "\n".join(script["rendered"](pages)) in text
    ps = sorted(p for page in pages for _, p in script["tests"](page).values() if not math.isnan(p))
    left = max((place for place, p in enumerate(ps, 1) if p <= 0.05 * place / len(ps)), default=0)
    assert text.count("README.md) | ") == left
