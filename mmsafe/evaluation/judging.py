"""Has cases judged: nothing twice, whatever interrupts it, and nothing dropped."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from mmsafe.core.cache import cache_dir
from mmsafe.core.claims import Claims
from mmsafe.core.errors import UserError
from mmsafe.core.row_store import RowStore
from mmsafe.data.example import digest
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.judges.judge import PART, Case, Judge, Verdict

log = logging.getLogger(__name__)
UNASKED = "not asked: the prompt leaves no room within lengths.max_length"
"""The error of a verdict on a prompt that has no answer."""


class VerdictStore(RowStore[Verdict]):
    """Rows `case` (its key) and the fields of a verdict."""

    stem = "judgements"
    key = "case"

    def row(self, value: Verdict) -> Mapping[str, Any]:
        return asdict(value)

    def value(self, row: Mapping[str, Any]) -> Verdict:
        return Verdict(**row)


def verdicts_on(cases: Sequence[Case], judge: Judge) -> list[Verdict]:
    """The verdict on every case, from the cache or asked for now; processes that want the same share the work.

    A verdict is kept as soon as it is there, under all that it depends on. One that is an error is not kept.
    """
    if judge.instant:
        judge.prepare(cases)
        return [verdict for _, verdict in sorted(_given(judge, cases), key=itemgetter(0))]
    from mmsafe.core.progress import once_each, progress

    keys = [case_key(case, judge) for case in cases]
    case_of = dict(zip(keys, cases, strict=True))
    folder = cache_dir("judgements") / digest(judge.identity())
    kept = VerdictStore(folder, None).read()
    if all(key in kept for key in keys):  # nothing is written, no claim either
        log.info("judge %s: %d cases, all of them in the cache", judge.label, len(case_of))
        return [kept[key] for key in keys]
    failed: dict[str, Verdict] = {}
    with Claims(folder) as claims:
        store = VerdictStore(folder, claims.place)
        missing = claims.missing(keys, store.read)
        cached = len(case_of) - len(missing)
        log.info("judge %s: %d cases, %d in the cache, %d to judge", judge.label, len(case_of), cached, len(missing))
        if missing:
            judge.prepare([case_of[key] for key in missing])
        try:
            with progress(f"judge {judge.label}", len(missing)) as advance:
                tell = once_each(advance)
                for mine in claims.shared(missing, lambda: store.read().keys() | failed.keys(), judge.together, tell):
                    for position, verdict in _given(judge, [case_of[key] for key in mine]):
                        if verdict.error:
                            failed[mine[position]] = verdict
                        else:
                            store.append([(mine[position], verdict)])
                        tell([mine[position]])
        finally:
            judge.let_go()
    return [failed[key] if key in failed else store.kept[key] for key in keys]


def case_key(case: Case, judge: Judge) -> str:
    """Hash of what is judged, and by what; the rest of what a verdict depends on is the judge's `identity`."""
    criterion = case.criterion if judge.criteria is not None else None  # it may decide what a reply means, too
    return digest([case.example.prompt_key(), case.response, judge.template(case.criterion), criterion])


def refuse_unknown(judged: Sequence[Judged], judge: str, max_unknown: float) -> None:
    """Raise `UserError` if more than `max_unknown` of what `judge` was asked is unknown, in any part of a benchmark."""
    parts: dict[str, list[Verdict]] = defaultdict(list)
    for row in judged:
        if row.verdict.error != UNASKED:
            parts[row.example.tags.get(PART, "")].append(row.verdict)
    for part, verdicts in parts.items():
        count = sum(verdict.unknown for verdict in verdicts)
        if count <= max_unknown * len(verdicts):
            continue
        errors = [verdict.error for verdict in verdicts if verdict.error]
        why = f", {len(errors)} of them errors such as: {errors[0]}" if errors else ""
        raise UserError(
            f"judge={judge}: {count} of {len(verdicts)} verdicts{part and f' of {part}'} are unknown{why}; that is "
            f"more than judge.max_unknown={max_unknown:g}; judging again asks for the errors alone"
        )


def _given(judge: Judge, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
    """What the judge says; raises `UserError` if it leaves out a case, which would be asked about for ever."""
    left = set(range(len(cases)))
    for position, verdict in judge.verdicts(cases):
        left.discard(position)
        yield position, verdict
    if left:
        raise UserError(f"judge={judge.label}: gave no verdict on {len(left)} of {len(cases)} cases")
