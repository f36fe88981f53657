"""Runs a guard: batches of conversations → replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.data.example import Turn
from mmsafe.evaluation.judges.judge import Case
from mmsafe.evaluation.judges.local_checkpoint import LocalCheckpoint, Reply
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.loading import own_device
from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line, load_model
from mmsafe.models.rendering import CannotShowError, rendered

Message = dict[str, Any]
MARK = "7f3a"
"""A text that no template holds."""


@lru_cache(maxsize=1)
def loaded(judge: LocalCheckpoint) -> LocalModel:
    """The judge's checkpoint on the device of this process, kept until `let_go`."""
    return LocalModel(judge)


def let_go() -> None:
    """Forget the checkpoint that is loaded, and free its memory."""
    loaded.cache_clear()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


class LocalModel:
    """A guard with its processor (a tokenizer where it reads text only)."""

    def __init__(self, judge: LocalCheckpoint) -> None:
        device = own_device(judge.accelerator)
        kind: Any = transformers.AutoModelForImageTextToText if judge.vision else transformers.AutoModelForCausalLM
        folder = judge.folder()
        self.judge = judge
        with in_one_line(f"judge.model={judge.checkpoint}"):
            check_files(folder)
            reader = transformers.AutoProcessor if judge.vision else transformers.AutoTokenizer
            self.processor, dtype = from_pretrained(reader, folder), getattr(torch, judge.dtype)
            self.model = load_model(kind, folder, allow_pickle=None, dtype=dtype, device_map=device)
            self.tokenizer = self.processor.tokenizer if judge.vision else self.processor
            self.tokenizer.padding_side = "left"
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token
            template = judge.chat_template
            self.template, self.in_parts = (template, False) if template else self._own_template()
            self.model.eval()
            self.model.generation_config = self._greedy()
            self.first = self._first_words() if judge.first_words else None

    def replies(self, cases: Sequence[Case], batch_size: int, max_length: int) -> Iterator[tuple[int, Reply]]:
        """The reply on each case with its position; conversations of similar length share a batch."""
        lengths = [self._encoded([case], images=False)["input_ids"].shape[-1] for case in cases]
        for position, length in enumerate(lengths):
            if length > max_length:
                yield position, Reply("", error=f"{length} tokens are more than judge.max_length={max_length}")
        for seen in (True, False):  # an image and none cannot share a batch
            some = [i for i, case in enumerate(cases) if lengths[i] <= max_length and self._sees(case) == seen]
            order = sorted(some, key=lambda i: lengths[i], reverse=True)
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                yield from zip(chosen, self._answer([cases[i] for i in chosen]), strict=True)

    @torch.no_grad()
    def _answer(self, cases: Sequence[Case]) -> list[Reply]:
        inputs = self._encoded(cases).to(self.model.device)
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        try:
            output = self.model.generate(
                **inputs, return_dict_in_generate=True, output_logits=True if self.first else None
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"judge.batch_size={len(cases)}: does not fit into the memory of {self.model.device}; lower it"
            ) from error
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        if self.first is None:
            return [Reply(text.strip()) for text in texts]
        return [self._reply(text, new[row], output.logits, row) for row, text in enumerate(texts)]

    def _reply(self, text: str, ids: Tensor, logits: Sequence[Tensor], row: int) -> Reply:
        """With the probabilities of the first word: Llama Guard 3 begins with blank lines."""
        blank = (not self.tokenizer.decode(token, skip_special_tokens=True).strip() for token in ids)
        step = next((step for step, is_blank in enumerate(blank) if not is_blank), 0)
        assert self.first is not None
        safe, unsafe = logits[step][row].float().softmax(-1)[list(self.first)].tolist()
        return Reply(text.strip(), safe, unsafe)

    def _encoded(self, cases: Sequence[Case], *, images: bool = True) -> Any:
        """Model inputs, aligned at their ends; what looks like a control token in them is encoded as text."""
        processing: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        options = {"processor_kwargs": processing} if images and self.judge.vision else processing
        encode = self.processor if images else self.tokenizer
        shown = [self._messages(case, images=images) for case in cases]
        for messages in shown:  # within its bounds, which what follows does not have
            rendered(self.tokenizer, messages, chat_template=self.template)
        return encode.apply_chat_template(
            shown, chat_template=self.template, tokenize=True, sanitize_control_tokens=True, return_dict=True, **options
        )

    def _messages(self, case: Case, *, images: bool = True) -> list[Message]:
        """The conversation in the form that the template reads."""
        example = case.example if images and self._sees(case) else case.example.blinded()
        messages = []
        for turn, shown in replace(example, turns=(*example.turns, Turn("assistant", case.response))).contents():
            parts: list[Message] = [
                {"type": "text", "text": self._words(part)}
                if isinstance(part, str)
                else {"type": "image", "image": part.load()}
                for part in shown
            ]
            messages.append({"role": turn.role, "content": parts if self.in_parts else self._words(turn.text)})
        return messages

    def _words(self, text: str) -> str:
        """The text without a placeholder of an image, which MllamaProcessor counts in texts, too."""
        placeholder = getattr(self.processor, "image_token", None)
        return text.replace(placeholder, f"{placeholder[0]} {placeholder[1:]}") if placeholder else text

    def _sees(self, case: Case) -> bool:
        return self.judge.vision and bool(case.example.images)

    def _own_template(self) -> tuple[str, bool]:
        """The checkpoint's own, and whether it reads contents as parts or as texts: it is taken as it shows them."""
        template = self.processor.chat_template or self.tokenizer.chat_template
        if not template:
            raise CheckpointError("has no chat template, which a guard is asked by")
        for in_parts in (True,) if self.judge.vision else (False, True):
            content = [{"type": "text", "text": MARK}] if in_parts else MARK
            messages = [{"role": role, "content": content} for role in ("user", "assistant")]
            try:
                shown = rendered(self.tokenizer, messages, chat_template=template)
            except CannotShowError:
                continue
            if shown.count(MARK) == 2:
                return template, in_parts
        raise CheckpointError("its chat template does not show a prompt and a response")

    def _greedy(self) -> transformers.GenerationConfig:
        """Not the checkpoint's own settings, of which only the tokens that end a reply are kept."""
        ends = self.model.generation_config.eos_token_id
        return transformers.GenerationConfig(
            max_new_tokens=self.judge.published.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id if ends is None else ends,
        )

    def _first_words(self) -> tuple[int, int]:
        """The tokens that `safe` and `unsafe` begin with."""
        safe, unsafe = (self.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("safe", "unsafe"))
        if safe == unsafe:
            raise UserError(
                "judge.threshold: this checkpoint's `safe` and `unsafe` begin with the same token; use null"
            )
        return safe, unsafe
