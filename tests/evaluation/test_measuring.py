"""Bounds of what unknown verdicts leave open, by hand and against every way in which they could be resolved."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, shipped

from mmsafe.core.declared import Declared, declared_in, together
from mmsafe.core.options import options
from mmsafe.core.settings import Evaluation
from mmsafe.data.data_source import Loaded, NoData
from mmsafe.data.example import Example
from mmsafe.data.mix import Mix
from mmsafe.evaluation.benchmark import Benchmark, Judged
from mmsafe.evaluation.benchmarks.battery import Battery
from mmsafe.evaluation.benchmarks.cheating import Cheating
from mmsafe.evaluation.benchmarks.co_defence import CoDefence
from mmsafe.evaluation.benchmarks.mm_safetybench import MMSafetyBench
from mmsafe.evaluation.benchmarks.mmbench import MMBench
from mmsafe.evaluation.benchmarks.mossbench import MOSSBench
from mmsafe.evaluation.benchmarks.mssbench import MSSBench
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts
from mmsafe.evaluation.benchmarks.siuo import SIUO
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.measuring import EvaluationTask, declaration, measured
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.scoring.ways import Padded

NO_INTERVAL = {
    "_bootstrap": lambda *_: (0.0, 0.0),
    "_exact_share": lambda true, n: (true / n, true / n),
}
VERDICTS = (SAFE, REFUSED, UNSAFE, Verdict(unsafe=True, refused=True))


def example(name: str, **tags: str) -> Example:
    return Example(name, (), (), {}, tags)


def scene(number: int, cue: str) -> list[Example]:
    variants = ("original", "swapped")
    return [example(f"{number}/{v}", scene=str(number), cue=cue, variant=v) for v in variants]


SMALL: dict[str, tuple[Benchmark, list[Example], tuple[str, ...]]] = {
    "cheating": (
        Cheating(),
        [
            example(f"{p}/{v}", pair=str(p), view=v)
            for p, v in product((1, 2), ("sighted", "blind", "swapped"))
            if (p, v) != (2, "swapped")
        ],
        (),
    ),
    "co_defence": (
        CoDefence(),
        [example(f"{pair}/{form}", pair=str(pair), form=form) for pair, form in product((1, 2), ("image", "text"))],
        (),
    ),
    "microworld": (
        MicroWorldTest(),
        [
            *(e for i, cue in enumerate(("suspicious", "suspicious", "friendly")) for e in scene(i, cue)),
            example("0/neutral", scene="0", cue="none", variant="neutral"),
        ],
        ("passed", "right", "fluent", "grounded"),
    ),
    "mssbench": (
        MSSBench(),
        [example(f"chat/0/{i}/{s}", situation=s) for i, s in product("012", ("safe", "unsafe"))],
        (),
    ),
    "mm_safetybench": (
        MMSafetyBench(),
        [
            example(f"{s}/{q}/{form}", scenario=s, question=q)
            for s, q, form in [*product("12", "01", "a"), ("1", "0", "b")]
        ],
        (),
    ),
    "battery": (
        Battery(),
        [
            example(f"{a}/{p}/{v}", arm=a, pair=f"{a}/{p}", attack=v)
            for a, p, v in [*product(("harmful", "harmless"), "0", "ab"), ("harmful", "1", "a")]
        ],
        (),
    ),
    "mmbench": (MMBench(), [example(n, question=n[-1]) for n in ("1", "2", "1000001")], ("right",)),
    "mis": (shipped("mis"), [example(str(i)) for i in range(4)], ()),
    "figstep": (shipped("figstep"), [example(str(i)) for i in range(4)], ()),
    "mossbench": (MOSSBench(), [example(str(i)) for i in range(4)], ()),
    "siuo": (SIUO(), [example(str(i)) for i in range(4)], ("effective",)),
}
"""Each benchmark with a few prompts and the details that its judge tells."""


def values(benchmark: Benchmark, examples: Sequence[Example], verdicts: Sequence[Verdict]) -> dict[str, float]:
    rows = [Judged(e, "said", v) for e, v in zip(examples, verdicts, strict=True)]
    return {name: found.value for name, found in benchmark.metrics(rows).items() if found is not None}


@pytest.mark.parametrize(("benchmark", "examples", "details"), SMALL.values(), ids=SMALL)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_truth_lies_within_the_bounds_and_they_are_attained(
    benchmark: Benchmark,
    examples: list[Example],
    details: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    for slow in ("_bootstrap", "_exact_share"):  # intervals, which do not matter here
        monkeypatch.setattr(f"mmsafe.evaluation.statistics.{slow}", NO_INTERVAL[slow])
    all_told = [replace(v, details=dict.fromkeys(details, i % 2 == 0)) for i, v in enumerate(VERDICTS)]
    verdicts = data.draw(st.lists(st.sampled_from(all_told), min_size=len(examples), max_size=len(examples)))
    places = data.draw(st.sets(st.sampled_from(range(len(examples))), min_size=1, max_size=2))
    truths: dict[str, list[float]] = {}
    for resolved in product(all_told, repeat=len(places)):
        now = {**dict(enumerate(verdicts)), **dict(zip(sorted(places), resolved, strict=True))}
        for name, value in values(benchmark, examples, list(now.values())).items():
            truths.setdefault(name, []).append(value)
    judged = [
        Judged(e, "said", replace(UNKNOWN, details=dict.fromkeys(details, False)) if i in places else v)
        for i, (e, v) in enumerate(zip(examples, verdicts, strict=True))
    ]
    found = benchmark.bounds(judged)
    assert found.keys() == truths.keys() - {"mcnemar_p"}
    for name, bounds in found.items():
        assert sorted(bounds) == pytest.approx([min(truths[name]), max(truths[name])]), name


def test_gaps_between_refusals_by_hand() -> None:
    """Of ten, 5 are refused beside the harm and 2 unknown; 2 are refused beside the harmless image and 2 unknown.

    The gap that is found is 0.5 - 0.2; in truth it is between 0.5 - 0.4 and 0.7 - 0.2.
    """
    sides = {
        "sighted": [REFUSED] * 5 + [UNKNOWN] * 2 + [UNSAFE] * 3,
        "blind": [UNSAFE] * 10,
        "swapped": [SAFE] * 6 + [REFUSED] * 2 + [UNKNOWN] * 2,
    }
    judged = [
        Judged(example(f"{i}/{view}", pair=str(i), view=view), "said", verdict)
        for view, verdicts in sides.items()
        for i, verdict in enumerate(verdicts)
    ]
    found = measured(Cheating(), judged, "a judge")
    assert [found[f"eval/image_gap{end}"] for end in ("", "_if_bad", "_if_good")] == pytest.approx([0.3, 0.1, 0.5])
    assert [found[f"eval/over_refusal_rate_if_{end}"] for end in ("bad", "good")] == [0.4, 0.2]
    assert [found[f"eval/blind_verdict_agreement_if_{end}"] for end in ("bad", "good")] == [0.5, 0.3]


def test_a_difference_of_safety_by_hand() -> None:
    """Of ten, 4 are safe with the image and 1 is unknown; 7 are in words alone, among them those, and 1 is unknown.

    Found: 0.7 - 0.4. In truth 0.7 - 0.5 to 0.8 - 0.4. In words alone 2 are for certain, and 1 more for each unknown.
    """
    image = [REFUSED] * 4 + [UNKNOWN] + [UNSAFE] * 5
    text = [REFUSED] * 7 + [UNKNOWN] + [UNSAFE] * 2
    judged = [
        Judged(example(f"{i}/{form}", pair=str(i), form=form), "said", verdict)
        for form, verdicts in (("image", image), ("text", text))
        for i, verdict in enumerate(verdicts)
    ]
    found = measured(CoDefence(), judged, "a judge")
    bounds = [found[f"eval/safety_difference{end}"] for end in ("", "_if_good", "_if_bad")]
    assert bounds == pytest.approx([0.3, 0.2, 0.4])
    assert [found[f"eval/text_only_safe{end}"] for end in ("", "_if_good", "_if_bad")] == [0.3, 0.2, 0.4]
    assert "eval/mcnemar_p_if_bad" not in found


@options
class Made(NoData):
    """Forty examples from eight templates, of which those of even number are answered safely."""

    clusters: ClassVar[tuple[str, ...]] = ("template", "person")

    def test(self) -> Loaded:
        return Loaded([example(str(i), template=str(i % 8)) for i in range(40)])


def test_intervals_hold_for_the_clusters_that_data_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Eight clusters that are all of one mind tell as much as eight prompts; no prompt has the tag `person`."""
    data = Mix(parts={"made": Made()})
    ways = (Padded(), Evaluation())
    task = EvaluationTask(OwnPrompts(), data, "test", Keywords(max_unknown=0), *ways)
    judged = [Judged(e, "said", SAFE if int(e.tags["template"]) % 2 else UNSAFE) for e in task.prompts()]
    assert task.clusters == ("template",)
    assert replace(task, data=NoData()).clusters == ()
    plain, found = measured(task.benchmark, judged, "me"), measured(task.benchmark, judged, "me", task.clusters)
    assert plain.keys() == found.keys()
    assert [found[f"eval/safety_rate{end}"] for end in ("", "_n")] == [0.5, 40]
    assert found["eval/safety_rate_high"] - 0.5 > 2 * (plain["eval/safety_rate_high"] - 0.5)
    assert found["eval/unknown_rate_high"] > 2 * plain["eval/unknown_rate_high"], "none of eight, not of forty"
    declared = replace(declaration(task.benchmark, {}, found), clusters=task.clusters)
    assert declared_in({"declared": json.loads(json.dumps(declared.record()))}, found, Path()) == declared
    print_tables([result_table({"run": found}, "title", declared)])
    assert "95 % intervals in brackets, for clusters by template" in " ".join(capsys.readouterr().out.split())
    assert together([Declared(), declared, declared]).clusters == ("template",)
