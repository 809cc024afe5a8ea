"""Chats as text: a Jinja template renders messages, and says which of the text an assistant wrote.

Templates run in a sandbox without access to anything but the messages. What is learnt is found exactly: either the
template marks it with ``{% generation %} ... {% endgeneration %}``, or the text of the chat up to each answer is
rendered and compared with the text of the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError, nearest

try:
    from jinja2 import Environment, Template, nodes
    from jinja2.exceptions import TemplateError, TemplateSyntaxError
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError as error:
    raise MissingExtra("text", "a chat template") from error

Message = Mapping[str, Any]

END = "\ufdd0"
"""Stands for the end of a text in what is rendered for a tokenizer without special tokens."""

_OPEN, _CLOSE = "\ufdd1", "\ufdd2"
_RESERVED = re.compile(f"[{END}{_OPEN}{_CLOSE}]")
_ANSWER = "{% generation %}{{ message.content }}"

TEMPLATES = {
    "plain": (
        "{{ bos_token }}{% for message in messages %}{{ message.role }}:{{ '\\n' }}"
        "{% if message.role == 'assistant' %}" + _ANSWER + "{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{{ '\\n' }}{% endif %}"
    ),
    "chatml": (
        "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}{{ '\\n' }}"
        "{% if message.role == 'assistant' %}" + _ANSWER + "<|im_end|>{{ ends }}{% endgeneration %}"
        "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
    ),
}
"""Built-in templates: the end of an answer is learnt, so that a model stops."""


@dataclass(frozen=True)
class Piece:
    """Some of a rendered chat.

    Attributes:
        text: it.
        learnt: whether an assistant wrote it.
    """

    text: str
    learnt: bool


class Chat:
    """A chat template.

    Args:
        source: its text, in Jinja as ``transformers`` reads it.
        special: names such as ``eos_token`` to what they are spelt as.
        name: how messages call it.

    Raises:
        ModelwrightError: it is no Jinja.
    """

    def __init__(self, source: str, special: Mapping[str, str], name: str = "template") -> None:
        self.source, self.name = source, name
        self._special = dict(special)
        self._marked = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._template = _compiled(source, name)

    def render(self, messages: Sequence[Message], *, prompt: bool = False, where: str = "") -> str:
        """The text of ``messages``; with ``prompt`` also what comes before an answer.

        Args:
            messages: of a chat.
            prompt: an assistant is to answer next.
            where: the chat's place, for messages.

        Raises:
            ModelwrightError: the template failed on them.
        """
        return re.sub(f"[{_OPEN}{_CLOSE}]", "", self._rendered(messages, prompt, where))

    def pieces(self, messages: Sequence[Message], where: str = "") -> list[Piece]:
        """The text of ``messages`` in pieces; together they are what :meth:`render` gives.

        Args:
            messages: of a chat.
            where: the chat's place, for messages.

        Raises:
            ModelwrightError: the template failed, or what it writes for earlier messages depends on later ones.
        """
        return self._by_marks(messages, where) if self._marked else self._by_prefixes(messages, where)

    def _by_marks(self, messages: Sequence[Message], where: str) -> list[Piece]:
        head, *answers = self._rendered(messages, False, where).split(_OPEN)
        pieces = [Piece(head, False)]
        for answer in answers:
            written, _, after = answer.partition(_CLOSE)
            pieces += [Piece(written, True), Piece(after, False)]
        return [piece for piece in pieces if piece.text]

    def _by_prefixes(self, messages: Sequence[Message], where: str) -> list[Piece]:
        whole, pieces, done = self.render(messages, where=where), [], 0
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:place], prompt=True, where=where)
            after = self.render(messages[: place + 1], where=where)
            if not (after.startswith(before) and whole.startswith(after) and done <= len(before)):
                raise self._unstable(place, before, after, whole, where)
            pieces += [Piece(whole[done : len(before)], False), Piece(whole[len(before) : len(after)], True)]
            done = len(after)
        return [piece for piece in [*pieces, Piece(whole[done:], False)] if piece.text]

    def _rendered(self, messages: Sequence[Message], prompt: bool, where: str) -> str:
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=prompt, **self._special)
        except Exception as error:
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            raise ModelwrightError(
                f"the chat template '{self.name}' failed: {kind}{error}",
                where=where,
                remedy="mend the messages, such as the order of their roles, or choose another template",
            ) from error

    def _unstable(self, place: int, before: str, after: str, whole: str, where: str) -> ModelwrightError:
        short, long = (before, after) if not after.startswith(before) else (after, whole)
        borders = (place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b)
        border = next(borders, min(len(short), len(long)))
        near = slice(max(0, border - 20), border + 20)
        return ModelwrightError(
            f"the chat template '{self.name}' does not say what message {place + 1} is: text before it is written"
            f" otherwise when more follows: {short[near]!r} becomes {long[near]!r}",
            where=where,
            remedy="put {% generation %} and {% endgeneration %} around what an assistant writes, or choose another",
        )


def chat_of(template: str, tokenizer: Any) -> Chat:
    """The chat template of a configuration.

    Args:
        template: a name of :data:`TEMPLATES`, ``tokenizer``, a file that ends in ``.jinja``, or Jinja itself.
        tokenizer: gives the special tokens and, for ``tokenizer``, the template.

    Raises:
        ModelwrightError: there is no such template.
    """
    # A tokenizer of our own has no way to spell its end of text, so a character stands for it.
    special = dict(getattr(tokenizer, "special", {"bos_token": END, "eos_token": END}))
    special["ends"] = "" if special["eos_token"] == "<|im_end|>" else special["eos_token"]
    return Chat(template_source(template, tokenizer), special, _named(template))


def template_source(template: str, tokenizer: Any = None) -> str:
    """The Jinja behind a configuration's template; see :func:`chat_of`."""
    if template in TEMPLATES:
        return TEMPLATES[template]
    if template == "tokenizer":
        return _of_tokenizer(tokenizer)
    if "{%" in template or "{{" in template:
        return template
    if not template.endswith(".jinja"):
        known = [*TEMPLATES, "tokenizer"]
        raise ModelwrightError(
            f"there is no chat template '{template}'",
            where="template",
            remedy=f"{nearest(template, known)} Your own: a file that ends in .jinja, or Jinja itself",
        )
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelwrightError(f"the chat template cannot be read: {error}", where="template") from error


def _of_tokenizer(tokenizer: Any) -> str:
    found = getattr(tokenizer, "template", None)
    if found is None:
        raise ModelwrightError(
            "the tokenizer brings no chat template",
            where="template",
            remedy=f"choose one of {', '.join(TEMPLATES)}, or {{use: local, folder: ...}} with a chat template",
        )
    return str(found)


def check_messages(messages: object, where: str) -> list[Message]:
    """Messages of a record: a list of objects with ``role`` and ``content``.

    Raises:
        ModelwrightError: they are something else, or hold a reserved character.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise _no_messages(f"a {type(messages).__name__}" if messages else "empty", where)
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _no_messages(f"wrong at message {place}", where)
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise _no_messages(f"not text at message {place}", where)
        if _RESERVED.search(message["content"] + message["role"]):
            raise ModelwrightError(
                "a message holds one of the characters U+FDD0 to U+FDD2, which stand for no text in Unicode",
                where=where,
                remedy="take them out",
            )
    return list(messages)


def _no_messages(what: str, where: str) -> ModelwrightError:
    return ModelwrightError(
        f"the messages are {what}", where=where, remedy='write [{"role": "user", "content": "..."}, ...]'
    )


def _named(template: str) -> str:
    return template if len(template) < 60 and "\n" not in template else f"{template[:50]}..."


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: marks what is between them."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _compiled(source: str, name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return _parsed(environment, source, name)


def _parsed(environment: Environment, source: str, name: str) -> Template:
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ModelwrightError(
            f"the chat template is no Jinja: line {error.lineno}: {error.message}", where=name
        ) from error


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON as it is: Jinja's own filter writes ``<`` as HTML would."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(message)
