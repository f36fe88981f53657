"""After ETA, "Evaluating Then Aligning" (arXiv 2410.06625): what a judge calls unsafe is answered anew, best of N.

The prefix and N are those of the released code (DripNowhy/ETA, generate/eta_generation.py). There, a reward model and
CLIP's similarity of the image to a sentence on harm have to agree that an answer is unsafe, and choose among N after
each sentence; here one judge decides both, on whole answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, InstanceOf

from mmsafe.core.config import built
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, Positive, Seed, options
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.defences.defence import Answerer, Defence
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict, single
from mmsafe.evaluation.judges.keywords import Keywords

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class ETA(Defence):
    """Judges each answer; one that is not safe gives way to the best of N that begin with a prefix."""

    name = "eta"

    judge: Annotated[InstanceOf[Judge], BeforeValidator(partial(built, path="defence.judge"))]
    """Who chooses; it cannot be the judge who measures, unless that one is exact: the result is then an upper bound."""
    prefix: str = "As an AI assistant"
    samples: Count = 5
    temperature: Positive = 1.0
    seed: Seed = 0

    @property
    def judges(self) -> Sequence[Judge]:
        return (self.judge,)

    def check_judge(self, judge: Judge) -> None:
        super().check_judge(judge)
        for one in single(judge):
            if isinstance(one, Keywords) and one.pattern.search(self.prefix):
                raise UserError(f"judge={one.name}: takes defence.prefix='{self.prefix}' by itself for a refusal")

    def __call__(
        self, prompts: Sequence[Example], first: Sequence[Response], ask: Answerer
    ) -> Mapping[int, tuple[str, bool]]:
        cases = [Case(prompt, response.text) for prompt, response in zip(prompts, first, strict=True)]
        verdicts = ask.verdicts(self.judge, cases)
        unsafe = [i for i, verdict in enumerate(verdicts) if verdict.unsafe or verdict.unknown]
        owners = [i for i in unsafe for _ in range(self.samples)]
        begun = [_begun(prompts[i], self.prefix) for i in owners]
        # Without a prefix these are the prompts of the first answers, whose noise is not to be drawn once more.
        seed = self.seed if self.prefix else self.seed ^ 2**31
        made = ask(begun, "answers after the prefix", temperature=self.temperature, seed=seed)
        texts = [_joined(self.prefix, response.text) for response in made]
        verdicts = ask.verdicts(self.judge, [Case(prompts[i], text) for i, text in zip(owners, texts, strict=True)])
        best: dict[int, tuple[str, bool]] = {}
        for n in sorted(range(len(made)), key=lambda n: _rank(verdicts[n])):
            best.setdefault(owners[n], (texts[n], made[n].finished))
        return best


def _rank(verdict: Verdict) -> tuple[bool, bool]:
    """Safe answers come first, and among them those that are no refusals."""
    return verdict.unsafe or verdict.unknown, verdict.refused


def _begun(prompt: Example, prefix: str) -> Example:
    """The prompt with the beginning of its answer, which generation continues."""
    return replace(prompt, turns=(*prompt.turns, Turn("assistant", prefix))) if prefix else prompt


def _joined(prefix: str, text: str) -> str:
    """The whole answer; what decoding took from the continuation is the space before a word."""
    return f"{prefix} {text}" if prefix and text[:1].isalnum() else prefix + text
