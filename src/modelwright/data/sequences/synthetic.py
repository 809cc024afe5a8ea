"""Small instructions that are made, not collected: something to tune a chat model on without a download.

Each answer follows from its question by a rule, so what a model has learnt can be told by eye.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.units import Count
from modelwright.data.sequences.chat import Message, check_messages
from modelwright.data.sequences.instructions import Chats, chat_in
from modelwright.data.sequences.preferences import ChatPairs
from modelwright.data.sequences.sources import Made, Row, Source

FORMAT = 1  # raise it when the same settings give other instructions
_CONSONANTS, _VOWELS = "bdfgklmnprst", "aeiou"
_PLACES = ("first", "second", "third", "fourth", "fifth")
_TRIES = 30  # questions drawn for each one that is kept


class _Dice:
    """Draws that are the same in every version of Python: only ``random.random`` is promised to be."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, end: int) -> int:
        return int(self._random() * end)

    def word(self, least: int = 3, most: int = 5) -> str:
        letters = (_CONSONANTS, _VOWELS) if self.below(2) else (_VOWELS, _CONSONANTS)
        length = least + self.below(most - least + 1)
        return "".join(letters[place % 2][self.below(len(letters[place % 2]))] for place in range(length))


Made3 = tuple[str, str, str]


def _add(dice: _Dice) -> Made3:
    one, other = 10 + dice.below(90), 10 + dice.below(90)
    wrong = one + other + (1 + dice.below(9)) * (1 if dice.below(2) else -1)
    return f"What is {one} + {other}?", str(one + other), str(wrong)


def _reverse(dice: _Dice) -> Made3:
    word = dice.word()
    return f"Write {word} backwards.", word[::-1], word


def _upper(dice: _Dice) -> Made3:
    word = dice.word()
    return f"Write {word} in capitals.", word.upper(), word


def _pick(dice: _Dice) -> Made3:
    words = list(dict.fromkeys(dice.word() for _ in range(3 + dice.below(3))))
    place = dice.below(len(words))
    return f"Which word is {_PLACES[place]}: {', '.join(words)}?", words[place], words[place - 1]


_TASKS: dict[str, Callable[[_Dice], Made3]] = {"add": _add, "reverse": _reverse, "upper": _upper, "pick": _pick}


@dataclass(frozen=True, kw_only=True)
class SyntheticInstructions(Chats):
    """Questions such as ``Write kotu backwards.`` with their answers; no two questions are the same.

    Attributes:
        count: how many.
        tasks: which rules: ``add`` two numbers, ``reverse`` a word, ``upper`` for capitals, ``pick`` a word by its
            place.
        template: ``plain``, ``chatml``, ``tokenizer`` (the template a local tokenizer brings), a file that ends
            in ``.jinja``, or Jinja itself.
        context: tokens in a sample; a longer one loses its end.
        pad: token that fills up a shorter one; ``None``: the tokenizer's own, else its end of text.
        tokenizer: what makes tokens; learnt from the training rows only.
        held_out: part of the questions to judge by, in [0, 1).
        seed: chooses the questions, and which of them are held out.
    """

    count: Count = 4000
    tasks: tuple[str, ...] = tuple(_TASKS)
    context: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.count, self.tasks)

    def sources(self) -> dict[str, Source]:
        """The instructions, made anew."""
        return {"train": made(self.count, self.tasks, self.seed)}

    def chats(self, row: Row) -> list[list[Message]]:
        """The question and its answer."""
        return [chat_in(row)]


@dataclass(frozen=True, kw_only=True)
class SyntheticPreferences(ChatPairs):
    """The questions of ``synthetic-instructions`` with a right answer to prefer and a wrong one to avoid.

    Attributes:
        count: how many.
        tasks: which rules: ``add`` two numbers, ``reverse`` a word, ``upper`` for capitals, ``pick`` a word by its
            place.
        template: ``plain``, ``chatml``, ``tokenizer`` (the template a local tokenizer brings), a file that ends
            in ``.jinja``, or Jinja itself.
        context: tokens in a sample; a longer one loses its end.
        pad: token that fills up a shorter one; ``None``: the tokenizer's own, else its end of text.
        tokenizer: what makes tokens; learnt from the training rows only.
        held_out: part of the questions to judge by, in [0, 1).
        seed: chooses the questions, and which of them are held out.
    """

    count: Count = 4000
    tasks: tuple[str, ...] = tuple(_TASKS)
    context: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.count, self.tasks)

    def sources(self) -> dict[str, Source]:
        """The questions, made anew."""
        return {"train": made(self.count, self.tasks, self.seed)}

    def chats(self, row: Row) -> list[list[Message]]:
        """The question with its right and with a wrong answer."""
        asked = {"role": "user", "content": row.text("prompt")}
        answers = [{"role": "assistant", "content": row.text(name)} for name in ("completion", "rejected")]
        return [check_messages([asked, answer], row.where) for answer in answers]


def made(count: int, tasks: tuple[str, ...], seed: int) -> Made:
    """Rows of ``prompt``, ``completion`` and ``rejected``."""
    return Made(f"{FORMAT} {count} {' '.join(tasks)} {seed}", partial(_rows, count, tasks, seed))


def _rows(count: int, tasks: tuple[str, ...], seed: int) -> Iterator[Row]:
    dice, known = _Dice(seed), set[str]()
    for _ in range(count * _TRIES):
        if len(known) == count:
            return
        question, answer, wrong = _TASKS[tasks[dice.below(len(tasks))]](dice)
        if question in known or answer == wrong:
            continue
        known.add(question)
        yield Row(f"question {len(known)}", {"prompt": question, "completion": answer, "rejected": wrong})
    raise ModelwrightError(
        f"the tasks have no {count} different questions", where="count", remedy="ask for fewer, or add tasks"
    )


def _check(count: int, tasks: tuple[str, ...]) -> None:
    if count < 2:
        raise ModelwrightError(f"{count} questions are too few", where="count", remedy="ask for 2 or more")
    if not tasks:
        raise ModelwrightError("no task is named", where="tasks", remedy=nearest("", _TASKS))
    for task in tasks:
        if task not in _TASKS:
            raise ModelwrightError(f"there is no task '{task}'", where="tasks", remedy=nearest(task, _TASKS))
