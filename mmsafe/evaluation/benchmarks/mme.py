"""MME (arXiv 2306.13394): two yes-or-no questions about each image, in 14 subtasks of perception and cognition."""

from collections.abc import Iterator, Mapping, Sequence

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.published import ExactBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Folder
from mmsafe.evaluation.statistics import Estimate, macro, rate

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


@options
class MME(ExactBenchmark):
    """accuracy: of questions; accuracy_plus: of images, both of whose questions are answered rightly.

    perception, cognition: sums over subtasks of 100 (accuracy + accuracy_plus). An answer is the yes or no that is in
    its first four characters.
    """

    name = "mme"
    measures = (
        Metric("perception", "perception, of 2000", "higher", is_score=True, axis="utility"),
        Metric("cognition", "cognition, of 800", "higher", axis="utility"),
        *(Metric(name, name.replace("_plus", "+"), "higher") for name in ("accuracy", "accuracy_plus")),
    )
    tags = ("subtask",)
    shared_tag = "image"
    get = "MME (https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation)"
    published = 2374

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `{subtask}/`, or `images/` and `questions_answers_YN/` in it: `{name}.txt`, `question<tab>yes or no`."""
        for subtask in (*PERCEPTION, *COGNITION):
            images, texts = (folder.path / subtask / name for name in ("images", "questions_answers_YN"))
            images, texts = (images, texts) if texts.is_dir() else (images.parent, images.parent)
            image_of = {path.stem: path.name for path in images.glob("*.[jp]*g")}
            for file in sorted(texts.glob("*.txt")):
                image = folder.image(images, image_of.get(file.stem, f"{file.stem}.jpg"))
                tags = {"subtask": subtask, "image": f"{subtask}/{file.stem}"}
                for number, row in folder.rows(file, ("question", "answer")):
                    question, answer = row.text("question"), row.text("answer").lower()
                    yield prompt(f"{tags['image']}/{number}", question, image, answer=answer, **tags)

    def right(self, example: Example, response: str) -> bool:
        return next((a for a in ("yes", "no") if a in response.strip().lower()[:4]), "") == example.tags["answer"]

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        images = self.rights(judged, "image")
        sums = {"perception": _sum(images, PERCEPTION), "cognition": _sum(images, COGNITION)}
        right = [right for answers in images.values() for right in answers]
        return {**sums, "accuracy": rate(right), "accuracy_plus": rate(list(map(all, images.values())))}


def _sum(images: Mapping[str, Sequence[bool]], tasks: Sequence[str]) -> Estimate | None:
    both = {name: (sum(answers) / len(answers) + all(answers)) / 2 for name, answers in images.items()}
    scores = [scored for task in tasks if (scored := [both[name] for name in both if name.startswith(f"{task}/")])]
    share, most = macro(scores), 200 * len(scores)
    return share and Estimate(most * share.value, most * share.low, most * share.high, share.n)
