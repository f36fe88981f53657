"""`mmsafe.agreement`: two raters' labels, by hand, and files that cannot be read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from launching import Ended, launch

from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.dialogue import Answer
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.stages import judge_answers
from mmsafe.microworld.reader import MicroWorld

PROMPTS = MicroWorld(test_size=64).test().examples
WORDS = {"s": "I cannot, secretly.", "u": "Sure, secretly!", "?": ""}


def write_judgements(folder: Path, said: str) -> None:
    """Judgements of responses that are safe, unsafe or unknown, a letter for each prompt."""
    answers = [Answer(WORDS[letter], True) for letter in said]
    folder.mkdir(exist_ok=True)
    judge_answers(folder, MMSafePOTest(), Keywords(max_unknown=1), PROMPTS[: len(said)], answers)


def write_csv(path: Path, rows: Sequence[str], header: str = "id,unsafe") -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")


def labelled(said: str) -> list[str]:
    """Rows of a person who answers with these letters."""
    return [f"{prompt.id},{word}" for prompt, word in zip(PROMPTS, said, strict=False)]


def agreement(place: Path, *words: str) -> Ended:
    return launch("agreement", *words, "hydra.run.dir=out", cwd=place)


def found(place: Path) -> list[dict[str, Any]]:
    return list(json.loads((place / "out" / "agreement.json").read_text())["pairs"])


def disagreements(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / "out" / "disagreements.jsonl").read_text().splitlines()]


def refusal(ended: Ended) -> str:
    assert ended.status == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("mmsafe.agreement:")]
    return line


def test_a_judge_and_a_person_by_hand(tmp_path: Path) -> None:
    """Both unsafe 20, judge alone 5, person alone 10, neither 15: agreement 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5.

    So κ = (0.7 - 0.5) / (1 - 0.5) = 0.4.
    """
    write_judgements(tmp_path / "run", "u" * 25 + "s" * 25)
    write_csv(tmp_path / "human.csv", labelled("1" * 20 + "0" * 5 + "1" * 10 + "0" * 15))
    ended = agreement(tmp_path, "a=run", "b=human.csv")
    assert ended.status == 0, ended.err
    (pair,) = found(tmp_path)
    assert (pair["first"], pair["second"], pair["rated"]) == ("keywords", "human", 50)
    assert (pair["only_first"], pair["only_second"]) == (0, 0)
    (field,) = pair["with_unknown"]
    assert field == "unsafe", "the person was not asked about refusals"
    told = pair["with_unknown"]["unsafe"]
    assert told["share"]["value"] == pytest.approx(0.7)
    assert told["kappa"]["value"] == pytest.approx(0.4)
    assert told["kappa"]["low"] < 0.4 < told["kappa"]["high"]
    assert told["table"]["yes"] == {"yes": 20, "no": 5, "unknown": 0}
    assert told["table"]["no"] == {"yes": 10, "no": 15, "unknown": 0}
    assert pair["without_unknown"]["unsafe"] == told
    assert pair["disagreements"] == 15
    assert disagreements(tmp_path)[0] == {"id": PROMPTS[20].id, "field": "unsafe", "keywords": "yes", "human": "no"}
    assert "0.400 [" in ended.out
    assert "secretly" not in ended.out + ended.err + (tmp_path / "out" / "disagreements.jsonl").read_text()


def test_the_rate_of_a_judge_is_corrected_by_the_labels_of_a_person(tmp_path: Path) -> None:
    """Unsafe by both 6, by the judge alone 1, by the person alone 2, by neither 3. Unlabelled: 24, safe 17, unknown 1.

    Sensitivity 6/8, specificity 3/4, rate 32/54 with the unknown one: (32/54 + 3/4 - 1) / (3/4 + 3/4 - 1) = 0.68519.
    """
    write_judgements(tmp_path / "run", "u" * 7 + "s" * 5 + "u" * 24 + "s" * 16 + "?s")
    write_csv(tmp_path / "human.csv", labelled("1" * 6 + "0" + "1" * 2 + "0" * 3))
    for words, judge in ((("a=run", "b=human.csv"), "keywords"), (("a=human.csv", "b=run"), "human")):
        ended = agreement(tmp_path, *words)
        (pair,) = found(tmp_path)
        assert pair["first"] == judge
        told = pair["calibration"]["unsafe"]
        assert [told[name]["value"] for name in ("sensitivity", "specificity", "rate")] == [0.75, 0.75, 32 / 54]
        assert told["corrected"]["value"] == pytest.approx((32 / 54 - 0.25) / 0.5)
        assert 0 < told["corrected"]["low"] < 0.68519 < told["corrected"]["high"] <= 1
        assert f"0.685 [{told['corrected']['low']:.3f}" in ended.out
    write_csv(tmp_path / "human.csv", labelled("0" * 7 + "1" * 5))
    ended = agreement(tmp_path, "a=run", "b=human.csv")
    assert ended.status == 0
    assert found(tmp_path)[0]["calibration"]["unsafe"]["corrected"] is None
    assert "there the judge is no better than chance" in " ".join(ended.out.split())
    agreement(tmp_path, "a=run", "b=run/judgements.jsonl")
    assert found(tmp_path)[0]["calibration"] == {}, "two judges, and nobody who knows"


def test_unknown_is_a_label_and_is_left_out_too(tmp_path: Path) -> None:
    """Alike on 2 of 4, of which one is unknown to both; without unknown 1 of 2."""
    write_judgements(tmp_path / "run", "us??")
    write_csv(tmp_path / "human.csv", labelled(("1", "yes", "unknown", "no")))
    agreement(tmp_path, "a=run/judgements.jsonl", "b=human.csv")
    (pair,) = found(tmp_path)
    assert pair["with_unknown"]["unsafe"]["share"]["value"] == 0.5
    assert pair["with_unknown"]["unsafe"]["table"]["unknown"] == {"yes": 0, "no": 1, "unknown": 1}
    assert pair["without_unknown"]["unsafe"]["share"]["value"] == 0.5
    assert pair["without_unknown"]["unsafe"]["share"]["n"] == 2
    assert [row["id"] for row in disagreements(tmp_path)] == [PROMPTS[1].id, PROMPTS[3].id]


def test_several_raters_are_compared_two_by_two(tmp_path: Path) -> None:
    write_judgements(tmp_path / "run", "uuss")
    write_csv(tmp_path / "one.csv", [f"{row},0" for row in labelled("1100")], header="id,unsafe,refused")
    rows = [{"id": prompt.id, "unsafe": n < 1, "refused": None} for n, prompt in enumerate(PROMPTS[:5])]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert agreement(tmp_path, "a=run", "b=[one.csv,two.jsonl]").status == 0
    pairs = found(tmp_path)
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("keywords", "one"), ("keywords", "two"), ("one", "two")
    ]  # fmt: skip
    assert [pair["with_unknown"]["unsafe"]["share"]["value"] for pair in pairs] == [1, 0.75, 0.75]
    assert [pair["with_unknown"]["refused"]["share"]["value"] for pair in pairs] == [0.5, 0, 0]
    assert [pair["only_second"] for pair in pairs] == [0, 1, 1]
    assert pairs[1]["without_unknown"]["refused"]["share"] is None


def test_two_judges_of_one_name_are_told_apart_and_must_have_judged_the_same(tmp_path: Path) -> None:
    write_judgements(tmp_path / "one", "us")
    (tmp_path / "two").mkdir()
    text = (tmp_path / "one" / "judgements.jsonl").read_text()
    (tmp_path / "two" / "judgements.jsonl").write_text(text.replace('"unsafe": true', '"unsafe": false'))
    ended = agreement(tmp_path, "a=one", "b=two")
    assert disagreements(tmp_path) == [{"id": PROMPTS[0].id, "field": "unsafe", "one": "yes", "two": "no"}]
    assert found(tmp_path)[0]["with_unknown"]["refused"]["kappa"]["value"] == 1
    write_judgements(tmp_path / "two", "ss")
    assert "two rated other responses to 1 prompts such as " in refusal(agreement(tmp_path, "a=one", "b=two"))
    write_csv(tmp_path / "human.csv", labelled("00"))
    ended = agreement(tmp_path, "a=two", "b=human.csv")
    (pair,) = found(tmp_path)
    assert pair["with_unknown"]["unsafe"]["kappa"] is None, "labels that are all the same"
    assert pair["with_unknown"]["unsafe"]["share"]["value"] == 1
    assert "–" in ended.out


BAD = {
    "id,unsafe|0,maybe": "row 1: 'maybe' is neither yes, no nor unknown",
    "id,unsafe|0,1|0,1": "row 2: id 0 stands there twice",
    "id,safe|0,1": "row 1: there is no column 'unsafe'; needed are id and unsafe",
    "id;unsafe|0;1": "row 1: there is no column 'id'",
    "id,unsafe|0": "row 1: '(no cell)' is neither",
    "id,unsafe|0,1,1": "row 1: has more cells than columns",
    'id,unsafe|"0,1': "is neither JSON lines nor a table with commas",
    "id,unsafe": "holds no labels",
    "id,unsafe|elsewhere,1": "rated nothing in common: no id is in both files",
}


def test_labels_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    write_judgements(tmp_path / "run", "us")
    for content, reason in BAD.items():
        header, *rows = content.split("|")
        write_csv(tmp_path / "human.csv", rows, header)
        assert reason in refusal(agreement(tmp_path, "a=run", "b=human.csv"))
        assert not (tmp_path / "out" / "agreement.json").exists()
    assert "b.0=nowhere: no such folder or file" in refusal(agreement(tmp_path, "a=run", "b=nowhere"))
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "unsafe"')
    assert "bad.jsonl: is neither JSON lines" in refusal(agreement(tmp_path, "a=run", "b=bad.jsonl"))
