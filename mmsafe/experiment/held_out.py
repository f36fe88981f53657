"""What is validated on while a policy trains: held-out examples, and prompts of the benchmark that it answers."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import gathered, is_first, rank, world_size
from mmsafe.data.data_source import need_images
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.answering import answered, too_long
from mmsafe.evaluation.dialogue import Answers
from mmsafe.evaluation.measuring import EvaluationTask
from mmsafe.evaluation.stages import judge_answers, read_judged, write_generations
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.generation.generate import Prompt, Response, generate
from mmsafe.generation.responses import draws_of, responses
from mmsafe.models.loading import set_aside
from mmsafe.models.vlm import VLM
from mmsafe.reporting.run_samples import SampledRun, sample_of
from mmsafe.reporting.sample_browser import write_page

log = logging.getLogger(__name__)
Show = Callable[[int, Sequence[SampledRun]], None]
"""Is given the answers of reference and policy after so many steps."""


def chosen(examples: Sequence[Example], count: int, seed: int, tag: str = "") -> list[Example]:
    """At most `count`, by hash and seed: the same in any order. Those that share the value of a tag stay together."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.tags.get(tag, example.id)].append(example)
    taken: list[Example] = []
    for key in sorted(groups, key=lambda key: digest([seed, key])):
        if taken and len(taken) + len(groups[key]) > count:
            break
        taken += groups[key]
    return taken


def held_out(config: TrainConfig) -> list[Example]:
    """The examples to validate on; raises `UserError` if there are none."""
    needed = config.objective.responses - config.objective.sampled
    loaded = config.data.holdout().examples
    examples = [example for example in loaded if needed <= set(example.responses)]
    if not examples:
        raise UserError(f"trainer.validate_every: nothing to validate on: {config.data.to_hold_out()}")
    log.info("%d of %d held-out examples have the responses to validate on", len(examples), len(loaded))
    if config.objective.needs_image:
        need_images(examples, "the objective")
    return chosen(examples, config.validate.examples or len(examples), config.seed)


class ValidationAnswers:
    """Prompts of a task that are answered by `vlm` as it is now, the reference, and again while it is trained.

    The judge judges both; each time a page stands in `folder/validation`, and `show` is given what is on it.
    """

    def __init__(self, vlm: VLM, task: EvaluationTask, count: int, seed: int, folder: Path, show: Show) -> None:
        self.vlm = vlm
        self.task = task
        self.folder = folder / "validation"
        self.show = show
        prompts = task.prompts()
        long = too_long(prompts, vlm, task.lengths)
        fitting = [prompt for position, prompt in enumerate(prompts) if position not in long]
        self.prompts = chosen(fitting, count, seed, task.benchmark.shared_tag)
        settings, label = task.settings.generation(), "validation: answers of the reference"
        drawn = draws_of(self.prompts, greedy=settings.temperature == 0)
        self.draws = {prompt.id: prompt.draw for prompt in drawn}
        """The number of the sample that a prompt asks for, among those of equal ones."""
        before = answered(vlm, task, self.prompts, lambda due: responses(vlm, due, settings, label))
        self.reference = self._judged("reference", before)[0]

    def __call__(self, step: int) -> dict[str, float]:
        """The benchmark's metrics of the policy; only the first rank has them."""
        positions = range(rank(), len(self.prompts), world_size())
        made = answered(self.vlm, self.task, [self.prompts[position] for position in positions], self._generated)
        answers = {
            at: answer for part in gathered(dict(zip(positions, made, strict=True))) for at, answer in part.items()
        }
        policy, metrics = self._judged(f"step={step}", [answers[position] for position in range(len(self.prompts))])
        if is_first():
            runs = [*self.reference, *policy]
            write_page(runs, self.folder / f"step={step}" / "samples.html")
            self.show(step, runs)
        return metrics

    def _generated(self, due: list[Example]) -> list[Response]:
        prompts = [Prompt(prompt, self.draws[prompt.id]) for prompt in due]
        batches = generate(self.vlm, prompts, self.task.settings.generation())
        made = dict(pair for batch in batches for pair in batch)
        return [made[position] for position in range(len(due))]

    def _judged(self, label: str, answers: Answers) -> tuple[list[SampledRun], dict[str, float]]:
        """What was answered, as pages show it, and its metrics; on the first rank alone."""
        benchmark, judge, folder = self.task.benchmark, self.task.judge, self.folder / label
        if not (is_first() or judge.on_devices):
            return [], {}
        folder.mkdir(parents=True, exist_ok=True)
        write_generations(folder, benchmark, self.prompts, answers)
        with set_aside(self.vlm) if judge.on_devices else nullcontext():
            judged = judge_answers(folder, benchmark, judge, self.prompts, answers)
        generations, judgements = read_judged(folder)
        samples = [sample_of(benchmark, p, generations[p.id], judgements[p.id]) for p in self.prompts]
        metrics = {name: estimate.value for name, estimate in benchmark.metrics(judged).items() if estimate is not None}
        return [SampledRun(label, folder, benchmark, {}, metrics, samples)], metrics
