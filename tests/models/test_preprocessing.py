"""Images and prompts as LLaVA-1.5 was trained on them, worked out here from the formulas and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import original_folder as tiny
import pytest
from PIL import Image

from mmsafe.data.example import Example, Turn
from mmsafe.models.encoding import Encoder
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])  # of CLIP's training images
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])
MEAN_COLOUR = (122, 116, 104)  # 255 times the mean, rounded down: what LLaVA pads with
SIDE = tiny.IMAGE


@pytest.fixture(scope="module", params=["original", "hf"])
def llava(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    """The same model, loaded from either format."""
    folder = tiny.write_original(tmp_path_factory.mktemp("original"))
    loaded = PretrainedLlava(path=str(folder)).load()
    if request.param == "original":
        return loaded
    loaded.save(folder.parent / "hf")
    return PretrainedLlava(path=str(folder.parent / "hf")).load()


@pytest.fixture(scope="module")
def encoder(llava: VLM) -> Encoder:
    return llava.encoder()


class Drawn:
    """An image at hand."""

    key = name = "drawn"

    def __init__(self, pixels: Any) -> None:
        self.image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)

    def load(self) -> Image.Image:
        return self.image


def gradient(width: int, height: int) -> np.ndarray[Any, Any]:
    """Different in every corner and channel, `[height, width, 3]`."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x / 2 - y / 2], -1).round().astype(np.uint8)


def squared(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The image in the middle of a square of the mean colour."""
    height, width, _ = image.shape
    side = max(height, width)
    square = np.empty((side, side, 3))
    square[:] = MEAN_COLOUR
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def cubic(distance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Keys' kernel with a = -1/2, as Pillow's bicubic filter."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def weights(old: int, new: int) -> np.ndarray[Any, Any]:
    """`[new, old]`: how much each old pixel gives to a new one; the kernel widens where the image shrinks."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    kernel = cubic((np.arange(old)[None] + 0.5 - centres) / max(scale, 1.0))
    return np.asarray(kernel / kernel.sum(1, keepdims=True))


def resized(square: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bicubic, one direction after the other, in whole steps of 8 bits as Pillow keeps them."""
    matrix = weights(len(square), SIDE)
    wide = np.einsum("ij,yjc->yic", matrix, square).round().clip(0, 255)
    return np.asarray(np.einsum("ij,jxc->ixc", matrix, wide).round().clip(0, 255))


@pytest.mark.parametrize(("width", "height"), [(48, 20), (20, 48), (33, 32), (31, 32), (16, 16), (8, 5), (5, 8)])
def test_pixels_are_padded_resized_and_normalised(encoder: Encoder, width: int, height: int):
    image = gradient(width, height)
    expected = (resized(squared(image)) / 255 - MEAN) / DEVIATION
    found = encoder.pixels(Drawn(image)).numpy()
    assert found.shape == (3, SIDE, SIDE)
    step = 1 / 255 / DEVIATION.min()  # of 8 bits; where both passes enlarge, halves are rounded twice
    error = np.abs(found - expected.transpose(2, 0, 1))
    assert error.max() <= step * (1 + (max(width, height) < SIDE)) + 1e-6
    assert error.mean() < step / 20


def test_a_border_is_the_mean_colour_and_near_zero(encoder: Encoder):
    """(122, 116, 104) / 255 is the mean up to rounding, so the border carries almost no signal."""
    border = (np.array(MEAN_COLOUR) / 255 - MEAN) / DEVIATION
    wide = encoder.pixels(Drawn(np.full((16, 64, 3), 255, np.uint8))).numpy()
    tall = encoder.pixels(Drawn(np.full((64, 16, 3), 255, np.uint8))).numpy()
    white = (1 - MEAN) / DEVIATION
    for pixels in (wide, tall.transpose(0, 2, 1)):
        np.testing.assert_allclose(pixels[:, 0, :], np.tile(border[:, None], SIDE), atol=1e-5)
        np.testing.assert_allclose(pixels[:, -1, :], np.tile(border[:, None], SIDE), atol=1e-5)
        np.testing.assert_allclose(pixels[:, SIDE // 2, :], np.tile(white[:, None], SIDE), atol=1e-5)
    assert np.abs(border).max() < 0.012


# "A chat between a curious user and an artificial intelligence assistant." "The assistant gives helpful, detailed, and
# polite answers to the user's questions." by the table of tests/support/original_folder.py: words from 259 on in the
# order of WORDS, characters behind them.
DOT, COMMA, QUOTE, COLON, QUESTION, SPACE, LETTER_S, NEWLINE = 300, 298, 293, 312, 317, 286, 369, 3 + 10
FIRST = [259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, DOT]
SECOND = [270, 269, 271, 272, COMMA, 273, COMMA, 265, 274, 275, 276, 277, 264, QUOTE, LETTER_S, 278, DOT]
SYSTEM = [1, *FIRST, *SECOND]
USER, ASSISTANT = [279, COLON], [280, COLON]
USER_AFTER_END = [283, COLON]  # what follows `</s>` begins a word without a space
YES, NO, WHAT, WHY, END = 281, 282, 284, 285, 2
PICTURE = [SPACE, *[479] * 4, SPACE, NEWLINE]


def ids(encoder: Encoder, *turns: Turn) -> list[int]:
    return encoder.prompt_ids(Example("x", turns, tuple(Drawn(gradient(16, 16)) for t in turns for _ in t.images), {}))


def test_characters_stand_where_the_hand_written_ids_say():
    tokens = tiny.vocabulary()
    written = {
        DOT: ".",
        COMMA: ",",
        QUOTE: "'",
        COLON: ":",
        QUESTION: "?",
        SPACE: "▁",
        LETTER_S: "s",
        NEWLINE: "<0x0A>",
    }
    assert {number: tokens[number] for number in written} == written
    assert [tokens[number] for number in (279, 280, 283, YES, WHAT)] == ["▁USER", "▁ASSISTANT", "USER", "▁yes", "What"]


def test_a_prompt_without_image(encoder: Encoder):
    """`SYSTEM USER: What? ASSISTANT:` with one BOS."""
    expected = [*SYSTEM, *USER, SPACE, WHAT, QUESTION, *ASSISTANT]
    assert ids(encoder, Turn("user", "What?")) == expected


def test_a_prompt_with_image(encoder: Encoder):
    """The original tokenises `SYSTEM USER: ` and `\\nWhat? ASSISTANT:` apart, each with a space in front."""
    expected = [*SYSTEM, *USER, *PICTURE, WHAT, QUESTION, *ASSISTANT]
    assert ids(encoder, Turn("user", "What?", images=(0,))) == expected


def test_a_prompt_of_several_turns(encoder: Encoder):
    """`… ASSISTANT: yes</s>USER: <image>\\nWhy? ASSISTANT:`: no space after `</s>`."""
    turns = (Turn("user", "What?"), Turn("assistant", "yes"), Turn("user", "Why?", images=(0,)))
    first = [*USER, SPACE, WHAT, QUESTION, *ASSISTANT, YES, END]
    assert ids(encoder, *turns) == [*SYSTEM, *first, *USER_AFTER_END, *PICTURE, WHY, QUESTION, *ASSISTANT]


def test_a_spelt_out_end_is_words(encoder: Encoder):
    """`… What </s>? ASSISTANT: yes</s></s>USER: …`: the second one is the template's."""
    first, slash, last = (tiny.vocabulary().index(sign) for sign in "</>")
    spelt = [first, slash, LETTER_S, last]
    turns = (Turn("user", "What </s>?"), Turn("assistant", "yes</s>"), Turn("user", "Why?"))
    asked = [*USER, SPACE, WHAT, SPACE, *spelt, QUESTION, *ASSISTANT, YES, *spelt, END]
    assert ids(encoder, *turns) == [*SYSTEM, *asked, *USER_AFTER_END, SPACE, WHY, QUESTION, *ASSISTANT]
    assert encoder.response_ids("yes</s>") == [YES, *spelt, END]


def test_a_response_goes_on_where_the_prompt_ends(encoder: Encoder):
    assert encoder.response_ids("no") == [NO, END]
    assert encoder.response_ids(" yes ", cut=True) == [YES]


def test_a_system_message_replaces_the_default(encoder: Encoder):
    text = [{"type": "text", "text": "A user."}]
    rendered = encoder.processor.apply_chat_template(
        [{"role": "system", "content": text}, {"role": "user", "content": text}], add_generation_prompt=True
    )
    assert rendered == "A user. USER: A user. ASSISTANT:"


def test_an_image_stands_for_its_patches(llava: VLM):
    """16 pixels in patches of 8; the class token is dropped."""
    assert llava.encoder().image_tokens == llava.model.config.image_seq_length == 4


def test_llava_hf_is_the_template_of_the_hub_s_checkpoints(llava: VLM, tmp_path: Path):
    """As `llava-hf/llava-1.5-7b-hf` renders it: no system prompt, a space after each text, no `</s>`."""
    llava.save(tmp_path)
    encoder = PretrainedLlava(path=str(tmp_path), chat_template="llava_hf").load().encoder()
    turns = (Turn("user", "What?", images=(0,)), Turn("assistant", "yes"), Turn("user", "Why?"))
    example = Example("x", turns, (Drawn(gradient(16, 16)),), {})
    assert encoder.prompt_text(example) == "USER: <image>\nWhat? ASSISTANT: yes USER: Why? ASSISTANT:"
    picture = [SPACE, *[479] * 4, NEWLINE]
    expected = [1, *USER, *picture, WHAT, QUESTION, *ASSISTANT, YES, *USER, SPACE, WHY, QUESTION, *ASSISTANT]
    assert encoder.prompt_ids(example) == expected
