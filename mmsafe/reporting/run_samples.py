"""What evaluated runs were asked, what they answered and how that was judged, read back from their folders."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from pydantic import Field, model_validator

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.core.run_record import about_run
from mmsafe.data.data_source import DataSource, NoData
from mmsafe.data.decoding import image_part
from mmsafe.data.example import Example, ImageSource, digest
from mmsafe.evaluation.benchmark import Benchmark, Part
from mmsafe.evaluation.dialogue import completed
from mmsafe.evaluation.leakage import with_blind
from mmsafe.evaluation.stages import JUDGEMENTS, GenerationRow, JudgementRow, read_judged, read_judgements
from mmsafe.reporting.summary import Run, read_runs

log = logging.getLogger(__name__)
THUMBNAIL = 256
"""Longer side in pixels."""
VERDICT = ("unsafe", "refused", "unknown")


@options
class SampledRunConfig:
    """Of a run's config, where its prompts came from."""

    benchmark: Benchmark
    data: DataSource = Field(default_factory=NoData)
    leakage: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self.benchmark.check_data(self.data)
        return self


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt as the model was asked it, its answer, and the verdict on that."""

    prompt: Example
    criterion: str
    generation: GenerationRow
    judgement: JudgementRow


@dataclass(frozen=True)
class SampledRun:
    """A run folder with all that was asked, answered and judged in it."""

    label: str
    """What tells it from the runs beside it."""
    path: Path
    benchmark: Benchmark
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """Empty if it did not finish, as where too many verdicts are unknown."""
    samples: Sequence[Sample]

    @property
    def judge(self) -> str:
        """The label of its judge."""
        return self.samples[0].judgement["judge"]

    @property
    def judged_at(self) -> datetime:
        """When its verdicts were written, to the second."""
        return datetime.fromtimestamp(int((self.path / JUDGEMENTS).stat().st_mtime), UTC)

    @property
    def file_name(self) -> str:
        """The label without the characters that a file name should not have."""
        return "".join(letter if letter.isalnum() or letter in "-_.=" else "-" for letter in self.label)


def read_samples(folders: Iterable[Path], changes: Sequence[str] = ()) -> list[SampledRun]:
    """Every judged run at or below `folders`; the others are left out, with a warning.

    The prompts are read again as the run's own config says, and must be those that were answered. `changes` are
    `dotted.name=value` in place of what is recorded there, for files that have moved. Raises `UserError` where
    something does not fit.
    """
    runs = read_runs(folders)
    judged = [run for run in runs if (run.path / JUDGEMENTS).exists()]
    for run in runs:
        if run not in judged:
            log.warning("%s: left out, for it has no %s", run.path, JUDGEMENTS)
    if not judged:
        raise UserError(f"{runs[0].path}: no answers were judged there; evaluate it with mmsafe.evaluate")
    known: dict[str, tuple[Benchmark, list[Example]]] = {}  # runs to compare were mostly asked the same
    return [_read(run, label, changes, known) for run, label in zip(judged, _labels(judged), strict=True)]


def sample_of(benchmark: Benchmark, prompt: Example, generation: GenerationRow, judgement: JudgementRow) -> Sample:
    """The rows of a prompt, and what the model was shown at its last turn."""
    shown = completed(prompt, generation.get("earlier", ()))
    return Sample(shown, benchmark.criterion(prompt), generation, judgement)


def thumbnail(image: ImageSource) -> str:
    """The image as a `data:` URL, no larger than `THUMBNAIL`."""
    return str(image_part(image, "jpeg", THUMBNAIL)["image_url"]["url"])


def side_by_side(images: Sequence[ImageSource]) -> Image.Image:
    """Images, none larger than `THUMBNAIL`, as one picture."""
    small = [image.load() for image in images]
    for image in small:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    row = Image.new("RGB", (sum(image.width for image in small), max(image.height for image in small)))
    for place, image in zip(accumulate((image.width for image in small), initial=0), small, strict=False):
        row.paste(image, (place, 0))
    return row


def named(images: Iterable[ImageSource]) -> list[dict[str, str]]:
    """Names and keys of images, in place of their pixels."""
    return [{"name": image.name, "key": image.key} for image in images]


def encodable(value: Any) -> Any:
    """The same with halves of surrogate pairs, which a model may say, as `\\ud83d`: UTF-8 has none."""
    if isinstance(value, dict):
        return {name: encodable(item) for name, item in value.items()}
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _labels(runs: Sequence[Run]) -> list[str]:
    """Their names, or else their folders', or else their paths."""
    labels = [str(run.config.get("name") or run.path.resolve().name) for run in runs]
    count = Counter(labels)
    return [label if count[label] == 1 else str(run.path) for run, label in zip(runs, labels, strict=True)]


def _read(
    run: Run, label: str, changes: Sequence[str], known: dict[str, tuple[Benchmark, list[Example]]]
) -> SampledRun:
    path, config = run.path, about_run(run.path)["config"]
    try:
        then = OmegaConf.create({name: config[name] for name in ("benchmark", "data", "leakage") if name in config})
        changed = OmegaConf.to_container(OmegaConf.merge(then, OmegaConf.from_dotlist(list(changes))), resolve=False)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: its config cannot be read ({' '.join(str(error).split())[:100]})") from error
    assert isinstance(changed, dict)
    part: Part = "holdout" if "trainer" in config else "test"  # a training run ends with its own hold-out
    key = digest([part, changed])
    if key not in known:
        known[key] = _prompts(
            path, recorded({str(name): node for name, node in changed.items()}, SampledRunConfig), part
        )
    benchmark, prompts = known[key]
    read_judgements(path, benchmark, prompts)  # refuses what does not fit these prompts
    generations, judgements = read_judged(path)
    samples = [sample_of(benchmark, it, generations[it.id], judgements[it.id]) for it in prompts]
    return SampledRun(label, path, benchmark, config, run.metrics, samples)


def _prompts(path: Path, config: SampledRunConfig, part: Part) -> tuple[Benchmark, list[Example]]:
    try:
        prompts = config.benchmark.prompts(config.data, part)
        return config.benchmark, with_blind(config.benchmark, prompts) if config.leakage else prompts
    except UserError as error:
        raise UserError(
            f"{path}: its prompts cannot be read again ({error}); if files have moved, or the run was started in "
            "another folder, say where they are: changes=[data.path=FILE,benchmark.path=FOLDER]"
        ) from error
