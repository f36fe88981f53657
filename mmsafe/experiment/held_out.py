"""What is validated on while a policy trains: held-out examples, and prompts of the benchmark that it answers."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import gathered, is_first, rank, world_size
from mmsafe.data.data_source import GENERATED, need_images
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.evaluating import too_long
from mmsafe.evaluation.measuring import EvaluationTask
from mmsafe.evaluation.stages import Answers, judge_answers, read_judged, write_generations
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.generation.generate import Prompt, Response, generate
from mmsafe.generation.responses import responses
from mmsafe.models.loading import set_aside
from mmsafe.models.vlm import VLM
from mmsafe.reporting.run_samples import Sample, SampledRun
from mmsafe.reporting.sample_browser import write_page

log = logging.getLogger(__name__)
Show = Callable[[int, Sequence[SampledRun]], None]
"""Is given the answers of reference and policy after so many steps."""


def chosen(examples: Sequence[Example], count: int, seed: int, tag: str = "") -> list[Example]:
    """At most `count`, by hash and seed: the same in any order. Those that share the value of a tag stay together."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.tags.get(tag, example.id)].append(example)
    found: list[Example] = []
    for key in sorted(groups, key=lambda key: digest([seed, key])):
        if found and len(found) + len(groups[key]) > count:
            break
        found += groups[key]
    return found


def held_out(config: TrainConfig) -> list[Example]:
    """The examples to validate on; raises `UserError` if there are none."""
    needed = config.objective.responses - set(GENERATED)
    loaded = config.data.holdout().examples
    examples = [example for example in loaded if needed <= set(example.responses)]
    if not examples:
        raise UserError(f"trainer.validate_every: nothing to validate on: {config.data.to_hold_out()}")
    log.info("%d of %d held-out examples have the responses to validate on", len(examples), len(loaded))
    if config.objective.needs_image:
        need_images(examples, "the objective")
    return chosen(examples, config.validate.examples or len(examples), config.seed)


class Asked:
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
        before = responses(vlm, self.prompts, task.settings.generation(), "validation: answers of the reference")
        self.reference = self._judged("reference", before)[0]

    def __call__(self, step: int) -> dict[str, float]:
        """The benchmark's metrics of the policy; only the first rank has them."""
        own = range(rank(), len(self.prompts), world_size())
        made: dict[int, Response] = {}
        draws = [Prompt(self.prompts[position]) for position in own]
        for batch in generate(self.vlm, draws, self.task.settings.generation()):
            made |= {own[position]: response for position, response in batch}
        answers = {position: response for part in gathered(made) for position, response in part.items()}
        policy, metrics = self._judged(f"step={step}", [answers[position] for position in range(len(self.prompts))])
        if is_first():
            runs = [*self.reference, *policy]
            write_page(runs, self.folder / f"step={step}" / "samples.html")
            self.show(step, runs)
        return metrics

    def _judged(self, label: str, made: Sequence[Response]) -> tuple[list[SampledRun], dict[str, float]]:
        """What was answered, as pages show it, and its metrics; on the first rank alone."""
        benchmark, judge, folder = self.task.benchmark, self.task.judge, self.folder / label
        if not (is_first() or judge.on_devices):
            return [], {}
        folder.mkdir(parents=True, exist_ok=True)
        answers: Answers = [(response.text, response.finished) for response in made]
        write_generations(folder, benchmark, self.prompts, answers)
        with set_aside(self.vlm) if judge.on_devices else nullcontext():
            judged = judge_answers(folder, benchmark, judge, self.prompts, answers)
        generations, judgements = read_judged(folder)
        samples = [Sample(p, benchmark.criterion(p), generations[p.id], judgements[p.id]) for p in self.prompts]
        metrics = {name: found.value for name, found in benchmark.metrics(judged).items() if found is not None}
        return [SampledRun(label, folder, benchmark, {}, metrics, samples)], metrics
