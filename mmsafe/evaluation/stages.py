"""The files between the stages of an evaluation: each can be repeated from the file of the one before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NotRequired, TypeVar, cast

from pydantic import InstanceOf, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_rows
from mmsafe.core.ranks import is_first
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.benchmark import Benchmark, Judged
from mmsafe.evaluation.dialogue import Answer, Answers, DefendedAnswer, completed, unanswered
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict, unknown
from mmsafe.evaluation.judging import UNASKED, refuse_unknown, verdicts_on

GENERATIONS, JUDGEMENTS = "generations.jsonl", "judgements.jsonl"
Text = InstanceOf[str]
"""Whatever a model says, halves of surrogate pairs too, which a validated `str` refuses."""


class StageRow(TypedDict):
    """What the rows of both files have."""

    id: str
    benchmark: str


class GenerationRow(StageRow):
    """A row of `generations.jsonl`."""

    prompt_hash: str
    """Of what the model was shown."""
    response: Text
    finished: bool
    """Whether the response ended by itself, before the length limit."""
    tags: dict[str, str]
    earlier: NotRequired[list[Text]]
    """The answers to the user's earlier turns, where the prompt leaves them to the model."""
    unasked: NotRequired[bool]
    """There, and true, where the prompt was too long to be asked."""
    defence: NotRequired[DefendedAnswer]


class VerdictRow(TypedDict):
    """The fields of a verdict."""

    unsafe: bool
    refused: bool
    unknown: bool
    category: str | None
    reply: Text
    details: NotRequired[dict[str, bool]]
    error: NotRequired[Text]


class JudgementRow(StageRow, VerdictRow):
    """A row of `judgements.jsonl`: a verdict, and what was judged by what."""

    judge: str
    prompt_hash: str
    """Of the judge's prompt, before question and response are put in."""
    response_hash: NotRequired[str]
    """Of what was judged."""
    criterion: NotRequired[str]
    tells: NotRequired[list[str]]
    """What a benchmark may take from this judge besides `unsafe`."""
    members: NotRequired[dict[str, VerdictRow]]
    """Of a jury, by the label of the member."""


GENERATION, JUDGEMENT = TypeAdapter(GenerationRow), TypeAdapter(JudgementRow)
RowT = TypeVar("RowT", bound=StageRow)


def write_generations(folder: Path, benchmark: Benchmark, prompts: Sequence[Example], answers: Answers) -> None:
    """One row per prompt: what was answered, and whether the answer ended by itself."""

    def row(prompt: Example, answer: Answer | None) -> Mapping[str, Any]:
        text, finished, earlier, how = answer or Answer("", finished=False)
        row = {"id": prompt.id, "benchmark": benchmark.name, "prompt_hash": prompt.prompt_key(), "response": text}
        more = {"earlier": list(earlier)} if earlier else {} if answer else {"unasked": True}
        return {**row, "finished": finished, "tags": dict(prompt.tags), **more, **({"defence": how} if how else {})}

    write_rows(folder / GENERATIONS, [row(*pair) for pair in zip(prompts, answers, strict=True)])


def read_generations(folder: Path, benchmark: Benchmark, prompts: Sequence[Example]) -> Answers:
    """The answer to every prompt, from a run folder; raises `UserError` if other prompts were answered there."""
    path = folder / GENERATIONS
    rows = _rows_of(path, GENERATION, benchmark, prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        if row["prompt_hash"] != prompt.prompt_key():
            raise UserError(f"{path}: prompt {prompt.id} was another one then, or had another image; generate anew")
        answered, wanted = len(row.get("earlier", ())), unanswered(prompt)
        if answered != wanted and not row.get("unasked"):
            raise UserError(
                f"{path}: prompt {prompt.id} has {answered} earlier answers instead of {wanted}; generate anew"
            )
    made = (Answer(row["response"], row["finished"], tuple(row.get("earlier", ()))) for row in rows)
    return [None if row.get("unasked") else answer for row, answer in zip(rows, made, strict=True)]


def judge_answers(
    folder: Path, benchmark: Benchmark, judge: Judge, prompts: Sequence[Example], answers: Answers
) -> list[Judged]:
    """Verdicts on all answers, written before they are refused for too many that are unknown.

    Where there is no answer the verdict is unknown, and the judge is not asked. Where several processes judge, the
    first one writes.
    """
    cases = [_case(benchmark, *pair) for pair in zip(prompts, answers, strict=True)]
    given = iter(verdicts_on([case for case, answer in zip(cases, answers, strict=True) if answer], judge))
    unasked = replace(unknown(error=UNASKED), details=dict.fromkeys(sorted(benchmark.needs - {"refused"}), False))
    verdicts = [next(given) if answer else unasked for answer in answers]
    if is_first():
        rows = [_judgement(case, verdict, benchmark, judge) for case, verdict in zip(cases, verdicts, strict=True)]
        write_rows(folder / JUDGEMENTS, rows)
    judged = [Judged(*row) for row in zip(prompts, (case.response for case in cases), verdicts, strict=True)]
    if is_first():
        for label, one in {**judge.panel, judge.label: judge}.items():
            rows_of_one = [replace(row, verdict=row.verdict.members.get(label, row.verdict)) for row in judged]
            refuse_unknown(rows_of_one, label, one.max_unknown)
    return judged


def read_judgements(folder: Path, benchmark: Benchmark, prompts: Sequence[Example]) -> tuple[list[Judged], str]:
    """What was judged, from a run folder, and the judge's label; raises `UserError` where they do not fit."""
    answers = read_generations(folder, benchmark, prompts)
    path = folder / JUDGEMENTS
    rows = _rows_of(path, JUDGEMENT, benchmark, prompts)
    judges = sorted({row["judge"] for row in rows})
    panels = {tuple(sorted(row["members"])) for row in rows if row.get("members")}
    if len(judges) > 1 or len(panels) > 1:
        raise UserError(f"{path}: holds verdicts of several judges ({', '.join(judges)}); judge anew")
    judged = []
    for prompt, answer, row in zip(prompts, answers, rows, strict=True):
        case = _case(benchmark, prompt, answer)
        shown = response_hash(case.example, case.response)
        if row.get("response_hash", shown) != shown:
            raise UserError(
                f"{path}: another answer to prompt {prompt.id} was judged than {GENERATIONS} has; judge anew"
            )
        refuse_untold(path, row, benchmark)
        judged.append(Judged(prompt, case.response, verdict_of(row)))
    return judged, "".join(judges)


def refuse_untold(path: Path, row: JudgementRow, benchmark: Benchmark) -> None:
    """Raise `UserError` if a verdict, in the file or run folder `path`, lacks what the benchmark needs."""
    if missing := benchmark.needs - set(row.get("tells", ["refused", *row.get("details", {})])):
        raise UserError(
            f"{path}: judge={row['judge']} did not tell what benchmark={benchmark.name} measures "
            f"({', '.join(sorted(missing))}); judge anew with another one"
        )


def response_hash(prompt: Example, response: str) -> str:
    """Of what a judge is shown."""
    return digest([prompt.prompt_key(), response])


def verdict_of(row: VerdictRow) -> Verdict:
    """The verdict in a row."""
    values = cast("dict[str, Any]", row)
    members = {label: verdict_of(given) for label, given in values.get("members", {}).items()}
    given = {field.name: values[field.name] for field in fields(Verdict) if field.name in values}
    return Verdict(**{**given, "members": members})


def read_rows(path: Path, kind: TypeAdapter[RowT]) -> dict[str, RowT]:
    """The rows of a stage's file by id; raises `UserError` if it is not there or not as it was written."""
    rows: dict[str, RowT] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = kind.validate_python(json.loads(line), strict=True)
                if rows.setdefault(row["id"], row) is not row:
                    raise ValueError(f"prompt {row['id']} stands there twice")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a run folder of an evaluation") from error
    except (ValueError, RecursionError) as error:
        why = str(error)
        if isinstance(error, ValidationError):  # in one line, without the words of a model
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"{path}: line {len(rows) + 1} is damaged ({why})") from error
    return rows


def read_judged(folder: Path) -> tuple[dict[str, GenerationRow], dict[str, JudgementRow]]:
    """Answers and verdicts of a run folder by id; raises `UserError` unless both are of the same prompts."""
    generations, judgements = read_rows(folder / GENERATIONS, GENERATION), read_rows(folder / JUDGEMENTS, JUDGEMENT)
    if unmatched := generations.keys() ^ judgements.keys():
        raise UserError(f"{folder}: prompt {min(unmatched)} is in one of {GENERATIONS}, {JUDGEMENTS} only; judge anew")
    return generations, judgements


def _rows_of(path: Path, kind: TypeAdapter[RowT], benchmark: Benchmark, prompts: Sequence[Example]) -> list[RowT]:
    """The row of every prompt; raises `UserError` unless the file is about exactly these."""
    rows = read_rows(path, kind)
    if others := {row["benchmark"] for row in rows.values()} - {benchmark.name}:
        raise UserError(f"{path}: is of benchmark={min(others)}, not of benchmark={benchmark.name}")
    expected = {prompt.id for prompt in prompts}
    for ids, what in ((expected - rows.keys(), "prompts missing"), (rows.keys() - expected, "prompts not asked for")):
        if ids:
            raise UserError(
                f"{path}: {what}: {len(ids)}, such as {min(ids)}; give the benchmark and data options of that run, or "
                "do that stage anew"
            )
    return [rows[prompt.id] for prompt in prompts]


def _case(benchmark: Benchmark, prompt: Example, answer: Answer | None) -> Case:
    """What is judged: the last answer, after the earlier ones; an empty one where the prompt was not asked."""
    text, _, earlier, _ = answer or Answer("", finished=False)
    return Case(completed(prompt, earlier), text, benchmark.criterion(prompt))


def _judgement(case: Case, verdict: Verdict, benchmark: Benchmark, judge: Judge) -> dict[str, Any]:
    return {
        "id": case.example.id,
        "benchmark": benchmark.name,
        **asdict(verdict),
        "judge": judge.label,
        "criterion": case.criterion,
        "prompt_hash": digest(judge.template(case.criterion)),
        "response_hash": response_hash(case.example, case.response),
        "tells": sorted(judge.tells),
    }
