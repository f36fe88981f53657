"""A policy and its reference, asked the same, and how much likelier the policy finds each answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmsafe.core.config import built
from mmsafe.core.errors import UserError
from mmsafe.core.run_record import about_run, run_options
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.experiment.chat_config import ChatConfig
from mmsafe.generation.generate import Prompt, Response, generate
from mmsafe.models.loading import checkpoint_source, from_checkpoint, on_device
from mmsafe.models.quantised import dequantised, quantised
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import ScoredRow
from mmsafe.scoring.collate import Item
from mmsafe.scoring.ways import Padded

ROWS, OTHER = {"answer": ScoredRow("answer")}, "with another image"


class Answer(NamedTuple):
    """What a model said, with log π(token) - log π_ref(token) in nats of each token if there is a reference."""

    model: str
    view: str
    text: str
    finished: bool
    tokens: Sequence[tuple[str, float]]

    @property
    def log_ratio(self) -> float:
        """log π(y|x) - log π_ref(y|x), x being the conversation in this view; nats."""
        return sum(ratio for _, ratio in self.tokens)

    def __str__(self) -> str:
        lines = [f"{self.model} {self.view}".strip(), self.text or "(empty)", *(["[…]"] * (not self.finished))]
        by_token = "  ".join(f"{piece}{ratio:+.2f}" for piece, ratio in self.tokens)
        return "\n".join([*lines, f"log π - log π_ref = {self.log_ratio:+.3f} nats: {by_token}" * bool(by_token)])


class Exchange(NamedTuple):
    """A question, the images with which it was answered, and the answers."""

    question: str
    image: ImageSource | None
    other: ImageSource | None
    answers: Sequence[Answer]


class Conversation:
    """With the policy and, where there is one, the reference; raises `UserError` where one cannot be loaded."""

    def __init__(self, config: ChatConfig) -> None:
        self.config, policy = config, from_checkpoint(config.checkpoint, "checkpoint", config.model)
        reference, about = _reference(config)
        self.models = {"policy": policy}
        self.about = f"policy: {config.checkpoint or 'the model of model='} · reference: {about}"
        if reference is not None:
            if reference.processor.tokenizer.get_vocab() != policy.processor.tokenizer.get_vocab():
                raise UserError(f"against: {about} has another tokenizer; its log-probs are of other tokens")
            self.models["reference"] = replace(policy, model=reference.model)  # shown what the policy is shown
        for vlm in self.models.values():
            on_device(vlm, config.accelerator).model.eval()
        self.reset()

    def reset(self) -> None:
        """Forget what was said and shown."""
        self.said: list[Exchange] = []
        self.turns: tuple[Turn, ...] = ()
        self.images: tuple[ImageSource, ...] = ()
        self.other: ImageSource | None = None

    def ask(self, question: str, image: ImageSource | None) -> Iterator[Answer]:
        """Answers, the policy's beside the image first, with which it goes on; `other` takes the last image's place.

        Raises `UserError` where the conversation leaves no room for an answer, or an image cannot be read.
        """
        answers, shown = list[Answer](), () if image is None else (image,)
        turns, images = (*self.turns, Turn("user", question, (0,) * len(shown))), (*self.images, *shown)
        prompt = Example("chat", turns, images, {})
        views = {"with the image": prompt, "without it": prompt.blinded()} if images else {"": prompt}
        if images and self.other is not None:
            views[OTHER] = replace(prompt, images=(*images[:-1], self.other))
        length = max(len(self.models["policy"].encoder().prompt_ids(view)) for view in views.values())
        if length + self.config.evaluation.max_new_tokens > self.config.max_length:
            raise UserError(f"max_length={self.config.max_length}: no room for an answer; begin a new conversation")
        prompts = [Prompt(view) for view in views.values()]
        for name, vlm in self.models.items():
            made = dict(pair for batch in generate(vlm, prompts, self.config.evaluation.generation()) for pair in batch)
            for number, view in enumerate(views):
                answers.append(
                    Answer(name, view, *made[number], self._log_ratios(prompts[number].example, made[number]))
                )
                yield answers[-1]
        self.turns, self.images = (*turns, Turn("assistant", answers[0].text)), images
        self.said.append(Exchange(question, image, self.other, answers))

    @torch.no_grad()
    def _log_ratios(self, prompt: Example, answer: Response) -> list[tuple[str, float]]:
        """Each token of `answer`, its end included, with its log-ratio; both models see the same tokens and pixels."""
        encoder = self.models["policy"].encoder()
        ids = encoder.response_ids(answer.text, cut=not answer.finished)
        if len(self.models) == 1 or not ids:
            return []
        cut = frozenset(() if answer.finished else ROWS)
        item = Item(replace(prompt, responses={"answer": answer.text}, cut=cut))
        batch = Padded().collator(encoder, [ROWS])([item]).to(self.models["policy"].model.device)
        scored = [Padded().log_probs(vlm.model, batch)["answer"] for vlm in self.models.values()]
        policy, reference = (row.log_probs[row.mask].double() for row in scored)
        texts = [encoder.tokenizer.decode(ids[:end]) for end in range(len(ids) + 1)]
        pieces = [longer[len(shorter) :] for shorter, longer in pairwise(texts)]
        return list(zip(pieces, (policy - reference).tolist(), strict=True))


def plain(text: str) -> str:
    """Text that can move no cursor: what is not printable, line ends excepted, is shown by its number."""
    return "".join(c if c.isprintable() or c == "\n" else f"⟨U+{ord(c):04X}⟩" for c in text)


def _reference(config: ChatConfig) -> tuple[VLM | None, str]:
    """`against`, or else what the run of `checkpoint` began with, and what to call it; or why there is none."""
    if not config.compare:
        return None, "none (compare=false)"
    if config.against is not None:
        return checkpoint_source(config.against, "against", config.model).load(), config.against
    folder = Path(config.checkpoint or "").expanduser()
    if config.checkpoint is None or not (options := run_options(folder, "model")):
        return None, "none: this model is of no run; name one to compare with by against=DIR"
    try:
        source: Any = built(options, "model")
        reference: VLM = source.load()
    except UserError as error:
        raise UserError(f"checkpoint={folder}: what its run began with: {error}; name it by against=DIR") from error
    if run_options(folder, "peft").get("method") == "qlora":
        reference = quantised(reference, reference.model.dtype, torch.device("cpu"))
        reference.model = dequantised(reference.model)
    elif (about_run(folder) or about_run(folder.parent)).get("model") != reference.fingerprint():
        raise UserError(
            f"checkpoint={folder}: the weights that its run began with have changed; name them by against=DIR"
        )
    return reference, "what its run began with"
