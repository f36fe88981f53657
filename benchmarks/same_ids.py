"""Do TRL and we feed the model the same tokens and pixels? Asked for every sample before anything is timed."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch

from benchmarks.sides import Plan
from mmsafe.core.errors import UserError
from mmsafe.data.example import Example
from mmsafe.models.vlm import VLM


def check_same_inputs(batches: Iterable[Any], llava: VLM, examples: Sequence[Example], plan: Plan) -> int:
    """Raise `UserError` at the first sequence of TRL's `batches` that differs from ours; returns how many there are.

    A batch holds the chosen sequences of its pairs, then the others.
    """
    encoder, seen, found = llava.encoder(), 0, iter(batches)
    for other, batch in plan.pairs():
        theirs = {name: value.cpu() for name, value in next(found).items()}
        ours = [(examples[index], name) for name in ("chosen", other) for index in batch]
        for position, (example, name) in enumerate(ours):
            ids = theirs["input_ids"][position][theirs["attention_mask"][position] == 1].tolist()
            response = int(theirs["completion_mask"][position].sum())
            place = f"row {example.id} of {plan.data}"
            _compare(f"{place}, its prompt", encoder.prompt_ids(example), ids[:-response], llava, plan)
            text = example.responses[name]
            _compare(f"{place}, its '{name}' response", encoder.response_ids(text), ids[-response:], llava, plan)
            seen += 1
        images = encoder.family.forward_inputs([encoder.image_inputs(example.images) for example, _ in ours])
        for what, tensor in images.items():
            if not torch.equal(theirs[what], tensor):
                rows = ", ".join(example.id for example, _ in ours[: len(batch)])
                raise UserError(f"rows {rows} of {plan.data}: TRL makes another {what} of their images than we do")
    return seen


def _compare(what: str, ours: list[int], theirs: list[int], llava: VLM, plan: Plan) -> None:
    if ours == theirs:
        return
    tokenizer = llava.processor.tokenizer
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if ours == [bos, *theirs]:
        why = "TRL's has no BOS: for images TRL adds none, so the chat template must begin with {{ bos_token }}"
    elif ours == [*theirs, eos]:
        why = "TRL's has no EOS: for images TRL adds none, so the chat template must write eos_token after an answer"
    elif [*ours, eos] == theirs:
        why = "ours has no EOS: set append_eos, or take eos_token out of the chat template"
    else:
        at = next(i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b)
        shown = [tokenizer.decode(ids[at : at + 4]) for ids in (ours, theirs)]
        why = f"from token {at} on ours reads {shown[0]!r} and TRL's {shown[1]!r}; look at the chat template"
    raise UserError(f"{plan.model} with {what}: {why}")
