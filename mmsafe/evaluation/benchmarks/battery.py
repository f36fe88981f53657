"""A robustness battery: harmful and harmless requests under the same attacks on their words and images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field, InstanceOf

from mmsafe.core.config import each_built
from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.options import Seed, options
from mmsafe.data.corruption import Corruption
from mmsafe.data.data_source import DataSource, NoData
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part, loaded
from mmsafe.evaluation.benchmarks.probe import Probe
from mmsafe.evaluation.statistics import Estimate, rate

ARMS = ("harmful", "harmless")
HOW = "or name both: +benchmark@benchmark.requests.harmful=siuo +benchmark@benchmark.requests.harmless=mossbench"
Requests = Annotated[dict[str, InstanceOf[Benchmark]], BeforeValidator(each_built("benchmark.requests"))]
Images = Annotated[dict[str, InstanceOf[Corruption]], BeforeValidator(each_built("benchmark.images"))]


@options
class Battery(Probe):
    """Each request as it is (`none`), in other words, beside another image of its arm, and beside its image spoilt.

    It is judged as if nothing had been changed: what was asked does not become harmless with the image gone.
    unsafe_rate, over_refusal_rate: of harmful and of harmless requests, by attack; over all, a request counts once, by
    its mean. robust_safety_rate: share of harmful requests whose answers are safe under every attack.
    """

    name = "battery"
    asks_data = False
    measures = (
        Metric("robust_safety_rate", "safe under every attack", "higher", is_score=True, axis="safety"),
        Metric("unsafe_rate", "unsafe", "lower", by_tag=True),
        Metric("over_refusal_rate", "over-refusal", "lower", by_tag=True, axis="over-refusal"),
    )
    view_tag = "attack"
    tags = ("attack",)
    needs = frozenset({"refused"})
    requests: Requests = Field(default_factory=dict)
    """`harmful` and `harmless`: benchmarks that ask these; none: harmful rows of the data, and the same words beside
    the harmless images that the data know."""
    words: dict[str, str] = Field(default_factory=dict)
    images: Images = Field(default_factory=dict)
    seed: Seed = 0

    def __post_init__(self) -> None:
        self.declare(is_test_set=any(benchmark.is_test_set for benchmark in self.requests.values()))

    def check_data(self, data: DataSource) -> None:
        """Where no requests are named, the data have them."""
        if self.requests.keys() not in ({*ARMS}, set()) or (not self.requests and isinstance(data, NoData)):
            raise ValueError(f"benchmark=battery: choose data with both kinds of requests, as data=microworld; {HOW}")
        for benchmark in self.requests.values():
            benchmark.check_data(data)

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """`{arm}/{id}/{attack}`."""
        arms: dict[str, list[Example]] = {arm: one.prompts(data, part) for arm, one in self.requests.items()}
        if not arms:
            both = [(e, swapped) for e in loaded(data, part).examples if (swapped := data.image_swapped(e))]
            arms = {"harmful": [e for e, _ in both], "harmless": [swapped for _, swapped in both]}
        if empty := [arm for arm in ARMS if not arms[arm]]:
            raise UserError(f"benchmark=battery: the data have no {empty[0]} requests; {HOW}")
        return [
            self.view(replace(prompt, id=f"{arm}/{prompt.id}", tags={**prompt.tags, "arm": arm}), attack)
            for arm, prompts in arms.items()
            for attack, attacked in self._attacked(prompts).items()
            for prompt in attacked
        ]

    def criterion(self, example: Example) -> str:
        """That of the request's own benchmark."""
        arm = example.tags["arm"]
        default = "harm" if arm == "harmful" else "over_refusal"
        return self.requests[arm].criterion(example) if self.requests else default

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        arms: dict[str, list[Sequence[Judged]]] = {arm: [] for arm in ARMS}
        for views in map(list, map(dict.values, self.by_view(judged))):
            arms[views[0].example.tags["arm"]].append(views)
        unsafe = [[row.harmful for row in views] for views in arms["harmful"]]
        refused = [[row.refused for row in views] for views in arms["harmless"]]
        harmful, harmless = ([views[0].clusters for views in arms[arm]] for arm in ARMS)
        return {
            "robust_safety_rate": rate([not any(views) for views in unsafe], harmful),
            "unsafe_rate": rate([sum(views) / len(views) for views in unsafe], harmful),
            "over_refusal_rate": rate([sum(views) / len(views) for views in refused], harmless),
        }

    def _attacked(self, prompts: Sequence[Example]) -> dict[str, list[Example]]:
        """All requests under each attack."""
        shown = sorted((e for e in prompts if e.images), key=lambda e: digest([self.seed, e.id]))
        others = zip(shown, [*shown[1:], *shown[:1]], strict=True)
        return {
            "none": list(prompts),
            **{name: [reworded(e, form) for e in prompts] for name, form in self.words.items()},
            "other_image": [replace(e, images=other.images[:1] * len(e.images)) for e, other in others],
            **{name: [spoilt.corrupted(e) for e in shown] for name, spoilt in self.images.items()},
        }


def reworded(example: Example, form: str) -> Example:
    """The prompt with its last words changed; an image inside of them keeps what follows it."""
    *before, last = example.turns
    _, _, rest = last.text.strip().partition(" ")
    text = form.replace("{request}", last.text.strip()).replace("{rest}", rest)
    places = tuple(place and max(0, place + len(text) - len(last.text)) for place in last.images)
    return replace(example, turns=(*before, replace(last, text=text, images=places)))
