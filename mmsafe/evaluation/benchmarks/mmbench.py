"""MMBench (arXiv 2307.06281), its dev set: multiple choice, each question in every order of its choices."""

import re
from collections.abc import Iterator, Mapping, Sequence

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.published import ExactBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Base64Image, Folder
from mmsafe.evaluation.statistics import Estimate, rate


@options
class MMBench(ExactBenchmark):
    """accuracy: of questions that are answered rightly in every order (CircularEval); vanilla_accuracy: in the first.

    An answer is the one letter of a choice among its words, or else the one choice whose text it holds; upstream asks a
    model about the others, which are wrong here, and its versions differ in where a letter may stand.
    """

    name = "mmbench"
    measures = (
        Metric("accuracy", "circular accuracy", "higher", is_score=True, axis="utility"),
        Metric("vanilla_accuracy", "accuracy in the first order", "higher"),
    )
    tags = ("l2-category", "category")
    shared_tag = "question"
    get = "MMBench's dev set (https://github.com/open-compass/MMBench: MMBench_DEV_EN.tsv)"
    file: str = "MMBench_DEV_EN.tsv"

    def read(self, folder: Folder) -> Iterator[Example]:
        """Ids are indices, the same modulo 1,000,000 for one question; a short image is the index that has it."""
        fields = ("index", "question", "hint", "A", "B", "answer", "image", *self.tags)
        rows = {row.text("index"): row for _, row in folder.rows(folder.file(self.file), fields)}
        images = {index: Base64Image(row.place, row["image"]) for index, row in rows.items()}
        for index, row in sorted(rows.items(), key=lambda item: item[0].rjust(9)):
            choices = {letter: row[letter] for letter in "ABCD" if row.value.get(letter)}
            if not index.isdecimal() or row["answer"] not in choices:
                raise UserError(f"{row.place}: needs a number as index, and an answer that is one of the choices")
            text = f"Hint: {row['hint']}\n" * bool(row["hint"]) + f"Question: {row.text('question')}\nOptions:\n"
            text += "".join(f"{letter}. {choice}\n" for letter, choice in choices.items())
            text += "Please select the correct answer from the options above. \n"
            tags = {name: row.text(name) for name in ("answer", *self.tags)} | {"question": str(int(index) % 1_000_000)}
            yield prompt(index, text, images.get(row["image"], images[index]), **tags, **choices)

    def right(self, example: Example, response: str) -> bool:
        choices = {letter: example.tags[letter].lower() for letter in "ABCD" if letter in example.tags}
        letters = [letter for letter in choices if letter in re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()]
        return (letters or [a for a, text in choices.items() if text in response.lower()]) == [example.tags["answer"]]

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        orders = self.rights(judged, "question").values()
        return {
            "accuracy": rate([all(answers) for answers in orders]),
            "vanilla_accuracy": rate([answers[0] for answers in orders]),
        }
