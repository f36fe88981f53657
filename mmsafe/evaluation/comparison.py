"""Two runs on the same prompts: what changed, and whether that could be chance."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsafe.core.config import recorded
from mmsafe.core.declared import Declared, declared_in
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.core.run_record import about_run
from mmsafe.evaluation.benchmark import Benchmark, by_tag
from mmsafe.evaluation.clusters import Clusters, clusters_of
from mmsafe.evaluation.leakage import BLIND
from mmsafe.evaluation.multiplicity import CORRECTIONS
from mmsafe.evaluation.paired import Paired, paired
from mmsafe.evaluation.stages import GenerationRow, JudgementRow, read_judged, refuse_untold, verdict_of
from mmsafe.evaluation.statistics import reach
from mmsafe.runs.plan import Correction

MOST_FACTORS = 8
"""Tags of clusters; all subsets of them are gone through."""


@options
class JudgedRunConfig:
    """Of a run's config, what was asked."""

    benchmark: Benchmark


@dataclass(frozen=True)
class JudgedRun:
    """A run folder as far as a comparison reads it."""

    folder: Path
    benchmark: Benchmark
    declared: Declared
    generations: Mapping[str, GenerationRow]
    judgements: Mapping[str, JudgementRow]

    def outcomes(self, i: str) -> Mapping[str, bool]:
        """What is yes or no of the response to prompt `i`."""
        return self.benchmark.outcomes(self.generations[i]["tags"], verdict_of(self.judgements[i]))


@dataclass(frozen=True)
class Change:
    """One outcome in both runs; where verdicts are unknown, how far their truth could move the difference."""

    paired: Paired
    lowest: float
    highest: float
    test: str
    """Name of the test that there is no difference: that of the clusters where there are any, else McNemar's."""
    p: float
    corrected: float
    found_from: float | None
    """The smallest true difference that as many prompts find in 80 % of experiments; None: not even the largest."""
    equivalent_p: float | None
    """Of the tests that the difference is smaller than the margin, each by itself; None without one."""


@dataclass(frozen=True)
class Comparison:
    """From run `a` to run `b`."""

    benchmark: str
    judge: str
    ids: Sequence[str]
    """Compared prompts."""
    left_out: Mapping[str, Sequence[str]]
    """Prompts that are not compared, by the reason."""
    unknown: tuple[int, int]
    evidence: Mapping[str, Mapping[str, str]]
    """By run, `a` or `b`, and by judge, what kind of evidence its verdicts are."""
    clusters: Sequence[str]
    """Tags by which the prompts come in clusters, in either run."""
    changes: Mapping[str, Change]
    """By outcome, then by `outcome/tag=value`."""

    def as_json(self) -> dict[str, Any]:
        """For `comparison.json`."""
        record = asdict(self)
        changes = {name: _counts(change.pop("paired")) | change for name, change in record["changes"].items()}
        return {**record, "ids": len(self.ids), "changes": changes}


def read_judged_run(folder: Path) -> JudgedRun:
    """A run that was evaluated; raises `UserError` if something of it is missing or damaged."""
    about = about_run(folder)
    if "benchmark" not in about.get("config", {}):
        raise UserError(f"{folder}: has no run.json of mmsafe.evaluate or mmsafe.train; name a run folder")
    benchmark = recorded({"benchmark": about["config"]["benchmark"]}, JudgedRunConfig).benchmark
    generations, judgements = read_judged(folder)
    for row in judgements.values():
        refuse_untold(folder, row, benchmark)
    generations = {i: row for i, row in generations.items() if BLIND not in row["tags"]}
    declared = declared_in(about, {}, folder)
    return JudgedRun(folder, benchmark, declared, generations, {i: judgements[i] for i in generations})


def compare(
    a: JudgedRun, b: JudgedRun, max_unpaired: float, correction: Correction = "holm", margin: float | None = None
) -> Comparison:
    """Every yes-or-no outcome of the benchmark, overall and by tag; raises `UserError` if the runs do not fit.

    p are corrected for their number; differences smaller than `margin` are as good as none, which None does not test.
    """
    if a.benchmark.name != b.benchmark.name:
        raise UserError(f"{a.folder} is of benchmark={a.benchmark.name}, {b.folder} of benchmark={b.benchmark.name}")
    ids, left_out = _joined(a, b, max_unpaired)
    by = tuple(dict.fromkeys([*a.declared.clusters, *b.declared.clusters]))
    if len(by) > MOST_FACTORS:
        raise UserError(f"{a.folder}, {b.folder}: name {len(by)} tags of clusters; {MOST_FACTORS} are the most")
    differences: dict[str, tuple[Paired, float, float]] = {}
    for group, positions in by_tag(a.benchmark.tags, [a.generations[i]["tags"] for i in ids]).items():
        pairs: dict[str, list[tuple[bool, bool, bool, bool, tuple[str, ...]]]] = defaultdict(list)
        for i in (ids[position] for position in positions):
            unknown = a.judgements[i]["unknown"], b.judgements[i]["unknown"]
            after, clusters = b.outcomes(i), clusters_of(i, b.generations[i]["tags"] | a.generations[i]["tags"], by)
            for name, before in a.outcomes(i).items():
                pairs[name].append((before, after[name], *unknown, clusters))
        differences |= {f"{name}{group}": _paired(*zip(*rows, strict=True)) for name, rows in pairs.items()}
    labels = sorted({a.judgements[i]["judge"] for i in ids})
    kinds = ({label: run.declared.judges[label] for label in labels if label in run.declared.judges} for run in (a, b))
    return Comparison(
        benchmark=a.benchmark.name,
        judge=", ".join(labels),
        ids=ids,
        left_out=left_out,
        unknown=(sum(a.judgements[i]["unknown"] for i in ids), sum(b.judgements[i]["unknown"] for i in ids)),
        evidence=dict(zip("ab", kinds, strict=True)),
        clusters=by,
        changes=_tested(differences, correction, margin),
    )


def _joined(a: JudgedRun, b: JudgedRun, max_unpaired: float) -> tuple[list[str], dict[str, list[str]]]:
    """Prompts that both runs were asked and judged alike, and the others."""
    ids = [i for i in a.generations if i in b.generations]
    other_prompt = [i for i in ids if a.generations[i]["prompt_hash"] != b.generations[i]["prompt_hash"]]
    joined = [i for i in ids if i not in set(other_prompt)]
    left_out = {
        "only in a": [i for i in a.generations if i not in b.generations],
        "only in b": [i for i in b.generations if i not in a.generations],
        "other text or image": other_prompt,
    }
    for i in joined:
        first, second = a.judgements[i], b.judgements[i]
        if (first["judge"], first["prompt_hash"]) != (second["judge"], second["prompt_hash"]):
            raise UserError(
                f"prompt {i} was judged by judge={first['judge']} in {a.folder} and by judge={second['judge']}, or by "
                f"another prompt of it, in {b.folder}; judge both alike with mmsafe.evaluate generations=RUN"
            )
    count, every = sum(map(len, left_out.values())), len({*a.generations, *b.generations})
    if not joined or count > max_unpaired * every:
        reasons = ", ".join(f"{len(some)} {reason}" for reason, some in left_out.items() if some)
        raise UserError(
            f"{count} of {every} prompts cannot be paired ({reasons}), more than max_unpaired={max_unpaired:g}; "
            "evaluate both on the same data and benchmark"
        )
    return joined, left_out


def _paired(
    before: Sequence[bool],
    after: Sequence[bool],
    before_unknown: Sequence[bool],
    after_unknown: Sequence[bool],
    clusters: Clusters,
) -> tuple[Paired, float, float]:
    """The difference, and the least and the greatest that it can be, whatever unknown verdicts are in truth."""
    both = paired(before, after, clusters=clusters)
    assert both is not None  # there is a pair wherever there is an outcome
    a, b = reach(before, before_unknown), reach(after, after_unknown)
    return both, b[0] - a[1], b[1] - a[0]


def _tested(
    differences: Mapping[str, tuple[Paired, float, float]], correction: Correction, margin: float | None
) -> dict[str, Change]:
    """Each difference with its test, and all tests corrected for their number."""
    tests = [both.test for both, _, _ in differences.values()]
    corrected = CORRECTIONS[correction]([p for _, p in tests])
    return {
        name: Change(both, low, high, *test, again, both.found_from(), both.equivalent_p(margin) if margin else None)
        for (name, (both, low, high)), test, again in zip(differences.items(), tests, corrected, strict=True)
    }


def _counts(paired: dict[str, Any]) -> dict[str, Any]:
    """The record of a `Paired` as `comparison.json` has it, beside which its test stands."""
    del paired["spread"]
    return {**paired, "mcnemar_p": paired.pop("p")}
