"""`mmsafe.chat`: the conversation in a terminal; that on a page is `chat_page`'s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmsafe.core.errors import UserError
from mmsafe.data.images import FileImage
from mmsafe.experiment.chat_config import ChatConfig
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.experiment.conversation import Conversation

KEYS = "/image FILE: with the next question   /other FILE: to compare with   /reset   /quit"


def chat(config: ChatConfig, run: RunContext) -> None:
    """Answer until the user leaves; nothing is recorded."""
    from mmsafe.experiment.chat_page import bound, serve
    from mmsafe.experiment.conversation import Conversation

    if config.ui == "terminal":
        _talk(Conversation(config))
    else:
        with bound(config.host, config.port) as server:  # before models are loaded in vain
            serve(server, Conversation(config))


def _talk(conversation: Conversation) -> None:
    import readline  # noqa: F401  # with it, `input` lets a line be edited

    from mmsafe.experiment.conversation import plain

    image = None
    print(plain(conversation.about), KEYS, sep="\n")
    while (line := _line()) != "/quit":
        word, _, value = line.partition(" ")
        try:
            if word in ("/image", "/other"):
                shown = FileImage(Path(value.strip()).expanduser())
                shown.check(decode=True)
                print("{1} x {0} pixels".format(*shown.shape))
                conversation.other, image = (shown, image) if word == "/other" else (conversation.other, shown)
            elif word == "/reset":
                conversation.reset()
            elif line.startswith("/"):
                print(KEYS)
            elif line:
                for answer in conversation.ask(line, image):
                    print(plain(f"\n{answer}"), flush=True)
                image = None
        except UserError as error:
            print(plain(str(error)))


def _line() -> str:
    try:
        return input("\nyou> ").strip()
    except EOFError:
        return "/quit"
