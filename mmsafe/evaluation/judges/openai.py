"""A model behind an OpenAI-compatible chat endpoint: GPT-4o, or one that vLLM or `transformers serve` serves."""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any

from pydantic import BaseModel, ConfigDict

from mmsafe.core.chat_client import Answer, Chat, NoAnswerError, ask_all, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.options import Count, NonNegative, options
from mmsafe.data.decoding import ImageFormat, user_message
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict, unknown
from mmsafe.evaluation.judges.request import Prices, Spent, image_tokens, mark, prompt_file, sent, transcript, visible

log = logging.getLogger(__name__)
BAD_REQUEST = {400, 422}
FILTERED = "content_filter"
CUT = "\n⟨cut⟩"


class OpenAIReply(BaseModel):
    """What the judge is asked to say; a reply that is anything else is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unsafe: bool
    refused: bool
    category: str | None
    reason: str


SCHEMA = {"name": "verdict", "strict": True, "schema": OpenAIReply.model_json_schema()}
WITH_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}


@options
class OpenAI(Endpoint, Prices, Judge):
    """Shows question, image and response to a model and asks for its verdict as JSON."""

    name = "openai"
    evidence = "a model"
    criteria = frozenset({"harm", "refuse_only", "disclaim", "over_refusal", "pair"})
    together = 4096
    idle = Judge.idle | {*Prices.__annotations__} | {*Endpoint.__annotations__} - {"model"}

    max_tokens: Count = 512
    temperature: NonNegative | None = 0.0
    seed: int | None = 0
    """null, as for `temperature`: not sent, for models that do not take it."""
    send_image: bool = True
    image_max_side: Count = 1024
    image_format: ImageFormat = "jpeg"
    max_response_characters: Count = 20_000

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)
        Prices.__post_init__(self)

    @property
    def label(self) -> str:
        return f"openai:{self.model}"

    def template(self, criterion: str) -> str:
        return prompt_file("openai", "frame") + prompt_file("openai", criterion)

    def prepare(self, cases: Sequence[Case]) -> None:
        """Say what this will take, at most; raises `UserError` if that costs too much."""
        needed = Spent()
        for case in cases:
            needed.add(self._input_tokens(case, self._question(case)), self.max_tokens)
        log.info("judge %s: about %s at most", self.label, self.cost_text(needed))
        limit = self.max_response_characters
        if cut := sum(len(case.response) > limit for case in cases):
            log.warning("judge %s: %d responses are cut at %d characters for the judge", self.label, cut, limit)
        self.refuse_cost(needed, f"judge={self.label}", "judge")

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        """As replies come. Raises `UserError` if the first one says that nothing can be judged here."""
        spent, parameters = Spent(), dict(WITH_SCHEMA)

        async def ask(chat: Chat, case: Case) -> Verdict:
            question = self._question(case)
            shown = case.example.images if self.send_image else ()
            # One message of the user: not every model's template has a place for a system prompt.
            message = await asyncio.to_thread(user_message, question, shown, self.image_format, self.image_max_side)
            answer = await self._answer(chat, [message], self._input_tokens(case, question), parameters)
            spent.add(answer.input_tokens, answer.output_tokens)
            return judged(answer)

        for position, verdict in ask_all(self, ask, cases):
            if isinstance(verdict, NoAnswerError):  # what the endpoint's filter stops is unknown for good
                why = str(verdict)
                verdict = unknown(reply=why) if verdict.code == FILTERED else unknown(error=why)
            yield position, verdict
        log.info("judge %s: took %s", self.label, self.cost_text(spent))

    async def _answer(
        self, chat: Chat, messages: list[dict[str, Any]], tokens: int, parameters: dict[str, Any]
    ) -> Answer:
        """Asked for by the schema that is in `parameters`, from which it goes where the endpoint takes none."""
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        sampling: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        tokens += self.max_tokens
        if parameters:
            try:
                return await chat.complete(messages, tokens, **sampling, **WITH_SCHEMA)
            except NoAnswerError as error:
                if error.status not in BAD_REQUEST or error.code == FILTERED:
                    raise
        answer = await chat.complete(messages, tokens, **sampling)
        if parameters:
            log.warning("judge %s: the endpoint takes no JSON schema; asked without from now on", self.label)
            parameters.clear()
        return answer

    def _question(self, case: Case) -> str:
        """The prompt with everything put in."""
        image = "There is no image in the conversation."
        if number := len(case.example.images):
            images = "image is" if number == 1 else f"{number} images are"
            shown = f"The conversation's {images} beside this text."
            image = shown if self.send_image else f"Its {images} not shown to you."
        limit = self.max_response_characters
        conversation = visible(transcript(case.example))
        response = visible(case.response if len(case.response) <= limit else case.response[:limit] + CUT)
        return Template(sent("openai", "frame")).substitute(
            mark=mark(conversation, response),
            image=image,
            conversation=conversation,
            response=response,
            criterion=sent("openai", case.criterion),
        )

    def _input_tokens(self, case: Case, question: str) -> int:
        """About how many the request takes."""
        shown = len(case.example.images) * self.send_image
        return estimated_tokens(question) + image_tokens(self.image_max_side) * shown


def judged(answer: Answer) -> Verdict:
    """Read a reply: exactly one JSON object with the fields of `OpenAIReply`, or unknown."""
    text = answer.text or ""
    if answer.refusal or answer.finish_reason in {FILTERED, "length"}:
        return unknown(answer.refusal or text or str(answer.finish_reason))
    try:
        reply = OpenAIReply.model_validate(json.loads(text, object_pairs_hook=_each_once))
    except (ValueError, RecursionError):  # pydantic's errors are ValueErrors, too
        return unknown(text)
    return Verdict(unsafe=reply.unsafe, refused=reply.refused, category=reply.category, reply=text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands twice")
    return fields
