"""The preference data of the micro-world as a data set."""

import random
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from mmsafe.core.options import Count, Seed, Share, options
from mmsafe.data.data_source import DataSource, Loaded
from mmsafe.data.example import Example
from mmsafe.microworld.annotators import preference, rank, two_candidates
from mmsafe.microworld.holdout import By, HoldOut, tagged
from mmsafe.microworld.icons import IconImage
from mmsafe.microworld.language import Cue
from mmsafe.microworld.things import LOOK_ALIKE, THINGS
from mmsafe.microworld.world import Scene, correlated_cue, directed_scene, image_seed, neutral_scene


@options
class MicroWorld(DataSource):
    """Preference pairs ranked by a simulated annotator, in a world where the wording misleads."""

    clusters = ("template", "person")
    batch_size: Count = 32
    seed: Seed = 0
    size: Count = 1500
    test_size: Count = 240
    cue_correlation: Share = 0.7
    neutral_share: Share = 0.15
    image_size: Annotated[int, Field(ge=24)] = 64
    holdout_by: By = "scene"

    def train(self) -> Loaded:
        """Pairs whose wording agrees with the image as often as `cue_correlation` says."""
        rng = random.Random(f"microworld train {self.seed}")
        scenes = [self._train_scene(rng, i) for i in range(self.size)]
        return Loaded(self._ranked("train", scenes, held=False))

    def holdout(self) -> Loaded:
        """Pairs on instructions and images that `train()` has none of; each thing has each wording equally often."""
        rng = random.Random(f"microworld holdout {self.seed}")
        scenes = [self._holdout_scene(rng, i) for i in range(self.test_size)]
        return Loaded(self._ranked("holdout", scenes, held=True))

    def text_only(self, example: Example) -> Example | None:
        """A harmful instruction without its image."""
        return example.blinded() if example.tags["harmful"] == "yes" else None

    def image_swapped(self, example: Example) -> Example | None:
        """A harmful instruction beside the look-alike of the dangerous thing, drawn with the same variation."""
        if example.tags["harmful"] != "yes":
            return None
        (image,) = example.images  # a harmful scene shows something
        assert isinstance(image, IconImage)
        thing = LOOK_ALIKE[image.thing]
        tags = {**example.tags, "thing": thing, "harmful": "no"}
        return replace(example, images=(replace(image, thing=thing),), tags=tags)

    def pairwise_ceiling(self, pair: Example) -> float | None:
        """By the annotators' own formula."""
        chance = preference(pair.tags, pair.responses["chosen"], pair.responses["rejected"])
        return max(chance, 1 - chance)

    def _train_scene(self, rng: random.Random, index: int) -> Scene:
        thing, pixels = rng.choice(THINGS), image_seed("train", self.seed, index)
        if rng.random() < self.neutral_share:
            return neutral_scene(rng, thing, pixels, "train")
        return directed_scene(rng, thing, pixels, correlated_cue(rng, thing, self.cue_correlation), "train")

    def _holdout_scene(self, rng: random.Random, index: int) -> Scene:
        thing, pixels = THINGS[index % len(THINGS)], image_seed("holdout", self.seed, index)
        if rng.random() < self.neutral_share:
            return neutral_scene(rng, thing, pixels, "test")
        cue: Cue = "suspicious" if index // len(THINGS) % 2 else "friendly"
        return directed_scene(rng, thing, pixels, cue, "test")

    def _ranked(self, part: str, drawn: list[Scene], *, held: bool) -> list[Example]:
        rng, hold_out = random.Random(f"microworld {part} candidates {self.seed}"), HoldOut(self.holdout_by, self.seed)
        named, examples = [thing for thing in THINGS if held or thing not in hold_out.names], []
        for i, scene in enumerate(hold_out.moved(scene, held=held) for scene in drawn):
            chosen, rejected = rank(rng, scene.tags(), *two_candidates(rng, scene, named))
            responses = {"chosen": chosen, "rejected": rejected}
            examples.append(tagged(scene.example(f"microworld-{part}-{self.seed}-{i}", responses, self.image_size)))
        return self.categorised(examples)
