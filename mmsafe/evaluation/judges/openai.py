"""A model behind an OpenAI-compatible chat endpoint: GPT-4o, or one that vLLM or `transformers serve` serves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mmsafe.core.chat_client import Answer, Chat, NoAnswerError, ask_all, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.options import Count, NonNegative, options
from mmsafe.data.decoding import ImageFormat, image_part
from mmsafe.evaluation.judges.fence import mark, shortened, transcript, visible
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict, unknown
from mmsafe.evaluation.judges.prompt_files import prompt, without_version
from mmsafe.evaluation.judges.spending import Prices, Spent, image_tokens

log = logging.getLogger(__name__)
BAD_REQUEST = {400, 422}
FILTERED = "content_filter"


class OpenAIReply(BaseModel):
    """What the judge is asked to say; a reply that is anything else is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unsafe: bool
    refused: bool
    category: str | None
    reason: str


SCHEMA = {"name": "verdict", "strict": True, "schema": OpenAIReply.model_json_schema()}


@options
class OpenAI(Endpoint, Prices, Judge):
    """Shows question, image and response to a model and asks for its verdict as JSON."""

    name: ClassVar[str] = "openai"
    evidence: ClassVar[str] = "a model"
    criteria: ClassVar[frozenset[str] | None] = frozenset({"harm", "refuse_only", "disclaim", "over_refusal", "pair"})
    together: ClassVar[int] = 4096
    idle: ClassVar[frozenset[str]] = Judge.idle | {*Prices.__annotations__} | {*Endpoint.__annotations__} - {"model"}

    max_tokens: Count = 512
    """Longest reply."""
    temperature: NonNegative | None = 0.0
    seed: int | None = 0
    """null, as for `temperature`: not sent, for models that do not take it."""
    send_image: bool = True
    image_max_side: Count = 1024
    """Pixels; larger images are scaled down."""
    image_format: ImageFormat = "jpeg"
    max_response_characters: Count = 20_000
    """Of a longer response the judge sees the beginning."""

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)
        Prices.__post_init__(self)

    @property
    def label(self) -> str:
        return f"openai:{self.model}"

    def template(self, criterion: str) -> str:
        return prompt("openai", "frame") + prompt("openai", criterion)

    def prepare(self, cases: Sequence[Case]) -> None:
        """Say what this will take, at most; raises `UserError` if that costs too much."""
        needed = Spent()
        for case in cases:
            needed.add(self.input_tokens(case, self.question(case)), self.max_tokens)
        log.info("judge %s: about %s at most", self.label, self.told(needed))
        limit = self.max_response_characters
        if cut := sum(len(case.response) > limit for case in cases):
            log.warning("judge %s: %d responses are cut at %d characters for the judge", self.label, cut, limit)
        self.refuse_cost(needed, f"judge={self.label}", "judge")

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        """As replies come. Raises `UserError` if the first one says that nothing can be judged here."""
        hearing = Hearing(self)
        for position, found in ask_all(self, hearing.verdict, cases):
            yield position, _not_judged(found) if isinstance(found, NoAnswerError) else found
        log.info("judge %s: took %s", self.label, self.told(hearing.spent))

    def question(self, case: Case) -> str:
        """The prompt with everything put in."""
        conversation = visible(transcript(case.example))
        response = visible(shortened(case.response, self.max_response_characters))
        return Template(without_version(prompt("openai", "frame"))).substitute(
            mark=mark(conversation, response),
            image=self._about_image(case),
            conversation=conversation,
            response=response,
            criterion=without_version(prompt("openai", case.criterion)),
        )

    def input_tokens(self, case: Case, question: str) -> int:
        """About how many the request takes."""
        return estimated_tokens(question) + image_tokens(self.image_max_side) * self._shows(case)

    def messages(self, case: Case, question: str) -> list[dict[str, Any]]:
        """One message of the user: not every model's template has a place for a system prompt."""
        if case.example.image is None or not self.send_image:
            return [{"role": "user", "content": question}]
        image = image_part(case.example.image, self.image_format, self.image_max_side)
        return [{"role": "user", "content": [image, {"type": "text", "text": question}]}]

    def sampling(self) -> dict[str, Any]:
        """Parameters of every request."""
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {name: value for name, value in chosen.items() if value is not None}

    def _shows(self, case: Case) -> bool:
        return self.send_image and case.example.image is not None

    def _about_image(self, case: Case) -> str:
        if case.example.image is None:
            return "There is no image in the conversation."
        return "The conversation's image is beside this text." if self.send_image else "Its image is not shown to you."


class Hearing:
    """One run of a judge: what the endpoint turned out to take, and what was spent."""

    def __init__(self, judge: OpenAI) -> None:
        self.judge, self.spent, self._takes_schema = judge, Spent(), True

    async def verdict(self, chat: Chat, case: Case) -> Verdict:
        """Ask; raises `NoAnswerError`."""
        question = self.judge.question(case)
        messages = await asyncio.to_thread(self.judge.messages, case, question)
        answer = await self._answer(chat, messages, self.judge.input_tokens(case, question) + self.judge.max_tokens)
        self.spent.add(answer.input_tokens, answer.output_tokens)
        return judged(answer)

    async def _answer(self, chat: Chat, messages: list[dict[str, Any]], tokens: int) -> Answer:
        if self._takes_schema:
            schema = {"type": "json_schema", "json_schema": SCHEMA}
            try:
                return await chat.complete(messages, tokens, **self.judge.sampling(), response_format=schema)
            except NoAnswerError as error:
                if error.status not in BAD_REQUEST or error.code == FILTERED:
                    raise
        answer = await chat.complete(messages, tokens, **self.judge.sampling())
        if self._takes_schema:
            log.warning("judge %s: the endpoint takes no JSON schema; asked without from now on", self.judge.label)
            self._takes_schema = False
        return answer


def judged(answer: Answer) -> Verdict:
    """Read a reply: exactly one JSON object with the fields of `Reply`, or unknown."""
    text = answer.text or ""
    if answer.refusal or answer.finish_reason in {FILTERED, "length"}:
        return unknown(answer.refusal or text or str(answer.finish_reason))
    try:
        reply = OpenAIReply.model_validate(json.loads(text, object_pairs_hook=_each_once))
    except (ValueError, RecursionError):  # pydantic's errors are ValueErrors, too
        return unknown(text)
    return Verdict(unsafe=reply.unsafe, refused=reply.refused, category=reply.category, reply=text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _not_judged(error: NoAnswerError) -> Verdict:
    """What the endpoint's filter stops is unknown for good; all else may succeed when it is asked for again."""
    return unknown(reply=str(error)) if error.code == FILTERED else unknown(error=str(error))
