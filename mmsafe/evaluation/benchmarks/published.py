"""Base of the benchmarks that are published as a folder of questions and images."""

import logging
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from mmsafe.core.errors import UserError
from mmsafe.core.options import InputPath, Share, options
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.data.images import failing
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.benchmarks.published_files import OPTION, Folder
from mmsafe.evaluation.judges.judge import EXACT, CaseJudge, Judge, Verdict

log = logging.getLogger(__name__)


@options
class PublishedBenchmark(Benchmark):
    """Asks what it brings itself, whatever the data; has no pairs to compare."""

    is_test_set = True
    has_pairs = False
    get: ClassVar[str]
    """What to get, and where."""
    published: ClassVar[int | None] = None
    """Prompts that it has as published."""

    path: InputPath | None = None
    """Required: its folder, as published."""
    on_bad: Literal["error", "skip"] = "error"
    """A prompt whose image is missing or damaged ends the command, naming both, or is left out and counted."""

    def check_data(self, data: DataSource) -> None:
        """Any will do; the prompts are in `path`."""
        if self.path is None:
            raise ValueError(f"{OPTION} is not set: get {self.get}, and set {OPTION} to its folder")

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        return self._read[0]

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        return self._read[1]

    @abstractmethod
    def read(self, folder: Folder) -> Iterable[Example]:
        """Its prompts, in their order; raises `UserError` naming the place where something is not as published."""

    def expected(self) -> int | None:
        """Prompts that these options should find."""
        return self.published

    @cached_property
    def _read(self) -> tuple[list[Example], dict[str, int]]:
        """The prompts whose images can be decoded, and how many others there are: none may fail after training."""
        assert self.path is not None  # check_data has refused that
        folder = Folder(self.path, self.get)
        examples = list(self.read(folder))
        if not examples:
            raise UserError(f"{self.path}: holds no prompts of benchmark={self.name}; get {self.get}")
        if twice := [name for name, count in Counter(example.id for example in examples).items() if count > 1]:
            raise UserError(f"{self.path}: two prompts of benchmark={self.name} are called {twice[0]}")
        if self.expected() not in (None, len(examples)):
            log.warning("%s: %d prompts, where %s has %s", self.path, len(examples), self.name, self.expected())
        shown: list[tuple[str, Any]] = [(example.id, image) for example in examples for image in example.images]
        bad = {name: folder.bad_images[image] for name, image in shown if image in folder.bad_images}
        bad |= failing([example for example in examples if example.id not in bad], decode=True)
        if not bad:
            return examples, {}
        name, why = next(iter(bad.items()))
        first = f"{self.path}: prompt {name}: {why}"
        if self.on_bad == "error" or len(bad) == len(examples):
            more = f"and {len(bad) - 1} more prompts without image; " if len(bad) > 1 else ""
            raise UserError(f"{first}; {more}benchmark.on_bad=skip leaves out and counts such prompts")
        log.warning("%d of %d prompts are left out for their images; the first: %s", len(bad), len(examples), first)
        return [example for example in examples if example.id not in bad], {"missing or damaged image": len(bad)}


@options
class Rule(CaseJudge):
    """The rule of one benchmark; tells whether an answer is right, and neither of harm nor of refusals."""

    name = "rule"
    evidence = EXACT
    details = frozenset({"right"})

    right: Callable[[Example, str], bool]
    max_unknown: Share = 1

    def __call__(self, example: Example, response: str) -> Verdict:
        return Verdict(unsafe=False, refused=False, details={"right": self.right(example, response)})


@options
class ExactBenchmark(PublishedBenchmark):
    """Judged by its own rule, whatever judge is chosen; a prompt that could not be asked is answered wrongly."""

    needs = frozenset({"right"})

    @abstractmethod
    def right(self, example: Example, response: str) -> bool:
        """Whether a response is right by the tag `answer`, as the published code reads it."""

    def judge_for(self, judge: Judge) -> Judge:
        return Rule(right=self.right)

    def check_judge(self, judge: Judge) -> None:
        """None is asked."""

    def rights(self, judged: Sequence[Judged], tag: str) -> dict[str, list[bool]]:
        """Whether each answer is right, by the value of a tag."""
        rights: dict[str, list[bool]] = defaultdict(list)
        for row in judged:
            rights[row.example.tags[tag]].append(row.verdict.details["right"])
        return rights

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        return {"right": verdict.details["right"]}


def prompt(name: str, text: str, *images: ImageSource, **tags: str) -> Example:
    """One question, with its images before it."""
    return Example(name, (Turn("user", text, (0,) * len(images)),), images, {}, tags)
