"""A chat template is a stranger's program: it shows conversations, or ends soon and in one line."""

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.models.encoding import Encoder
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.rendering import MEMORY, CannotShowError, rendered
from mmsafe.models.vlm import VLM

EXAMPLE = Example("1", (Turn("user", "?"),), (), {})
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
LOOP = "{%- for i in range(99999) %}{% for j in range(99999) %}TEXT{% endfor %}{% endfor %}"
GROWTH = "{%- set ns = namespace(x='a' ~ ' ' ) %}{% for i in range(60) %}{% set ns.x = ns.x STEP ns.x %}{% endfor %}"
HOSTILE = {
    "loops": LOOP.replace("TEXT", ""),
    "loops that write": LOOP.replace("TEXT", "x"),
    "recursive loop": "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "doubling": GROWTH.replace("STEP", "~"),
    "doubling lists": GROWTH.replace("STEP", "+").replace("'a' ~ ' '", "[1]"),
    "a product": "{{ 'a' * 3000000000 }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a width": "{{ '%3000000000d' % 1 }}",
    "padding": "{{ 'a'|center(3000000000) }}",
    "formatting": "{{ '{:>3000000000}'.format(1) }}",
    "filters": "{{ range(99999)|map('center', 99999)|join }}",
    "globals": "{{ lipsum(n=99999999) }}",
    "much text": GROWTH.replace("60", "20").replace("STEP", "~") + "{{ ns.x }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_template_that_takes_too_much_is_stopped(llava: VLM, template: str, monkeypatch: pytest.MonkeyPatch):
    """Two seconds of it, here a fifth of one."""
    monkeypatch.setattr("mmsafe.models.rendering.SECONDS", 0.2)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises(UserError, match=r"^the chat template of ") as error:
        rendered(llava.processor, MESSAGES, chat_template=template)
    assert "\n" not in str(error.value)
    assert time.thread_time() - start < 3, "compiling, and the last operation before the clock is looked at"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1.5 * MEMORY
    assert resource.getrlimit(resource.RLIMIT_AS) == (resource.RLIM_INFINITY,) * 2, "as it was"


def test_it_is_told_when_the_model_is_loaded_and_of_a_later_prompt_too(llava: VLM, tmp_path: Path):
    llava.save(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(HOSTILE["macro"])
    for read in (PretrainedLlava(path=str(tmp_path)).load, PretrainedLlava(path=str(tmp_path)).encoder):
        with pytest.raises(
            UserError, match=rf"^model.path={tmp_path}: the chat template of .* set model.chat_template$"
        ):
            read()
    template.write_text("{% if messages|length > 1 %}" + HOSTILE["macro"] + "{% endif %}USER: <image>ASSISTANT:")
    encoder: Encoder = PretrainedLlava(path=str(tmp_path)).encoder()
    encoder.prompt_text(EXAMPLE)
    with pytest.raises(UserError, match="the chat template of "):
        encoder.prompt_text(Example("2", (Turn("user", "?"), Turn("assistant", "!"), Turn("user", "?")), (), {}))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content.text.upper() + 1 }}", "."),
    ],
)
def test_a_template_that_cannot_show_a_conversation_says_why(llava: VLM, template: str, told: str):
    with pytest.raises(CannotShowError, match=f"cannot show a conversation: .*{told}"):
        rendered(llava.processor, MESSAGES, chat_template=template)


def test_bounds_change_nothing_else(llava: VLM):
    """Also from several threads, as the limit of memory is that of the process."""
    template = "{% for m in messages %}{{ m['role'] | upper }}: {{ loop.index }}{% endfor %}"
    expected = llava.processor.apply_chat_template(MESSAGES, chat_template=template, tokenize=False)
    found: list[str] = []

    def work() -> None:
        found.extend(rendered(llava.processor, MESSAGES, chat_template=template) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


NESTED = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
NESTED += "{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
ENDLESS = {
    "comparison": NESTED + "{{ ns.a == ns.b }}",
    "JSON": NESTED + "{{ ns.a | tojson }}",
    "a key": NESTED.replace("[", "(").replace("]", ",)") + "{{ {ns.a: 1} }}",
    "division": "{% set ns = namespace(x='f') %}{% for i in range(24) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    "{{ (ns.x | int(base=16)) % (ns.x[:8000001] | int(base=16)) }}",
}
SCRIPT = """
from types import SimpleNamespace
import sys
from mmsafe.models import rendering
from transformers.utils.chat_template_utils import render_jinja_template

def show(messages, tokenize, chat_template):
    return render_jinja_template([messages], chat_template=chat_template)[0][0]

rendering.HANGING = 1
processor = SimpleNamespace(name_or_path="x", chat_template=None, apply_chat_template=show)
for template in sys.argv[1:]:
    rendering.rendered(processor, [{"role": "user", "content": "?"}], chat_template=template)
"""


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_operation_that_nothing_interrupts_ends_the_process(template: str):
    """And nothing else does: a template before it that takes no time is shown."""
    command = [sys.executable, "-c", SCRIPT, "{{ messages[0].role }}", template]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:01)!")
    assert 'File "<template>"' in done.stderr
