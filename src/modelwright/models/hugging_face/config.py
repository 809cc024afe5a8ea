"""Configurations of ``transformers`` models: written in a recipe or in a folder, checked, filled from the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError, nearest

try:
    import transformers
except ImportError as error:
    raise MissingExtra("transformers", "the model 'transformers'") from error

_GENERATION = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id")


def written(fields: Mapping[str, Any]) -> Any:
    """The configuration object of ``{model_type: ..., field: value}``.

    Raises:
        ModelwrightError: no such type, or a field that it does not have.
    """
    kind, given = str(fields["model_type"]), {name: value for name, value in fields.items() if name != "model_type"}
    if kind not in transformers.CONFIG_MAPPING:
        raise ModelwrightError(
            f"transformers has no model_type '{kind}'",
            where="config",
            remedy=nearest(kind, transformers.CONFIG_MAPPING.keys()),
        )
    usual = transformers.CONFIG_MAPPING[kind]()
    for name in given:  # transformers would keep a misspelt field and never read it
        if not hasattr(usual, name) and name not in (*usual.attribute_map, *_GENERATION):
            known = [*usual.to_dict(), *usual.attribute_map]
            raise ModelwrightError(
                f"the configuration of '{kind}' has no field '{name}'", where="config", remedy=nearest(name, known)
            )
    return transformers.AutoConfig.for_model(kind, **given)


def check_code(config: Any, file: Path, *, trusted: bool) -> None:
    """Code may come from the folder alone, and only on the user's word.

    Raises:
        ModelwrightError: the configuration names code elsewhere, or code that is not trusted.
    """
    code = config.get("auto_map") if isinstance(config, Mapping) else None
    if not code:
        return
    if any("--" in str(place) for place in code.values()):
        raise ModelwrightError(
            "the model's code lies in another repository, and nothing is downloaded",
            where=str(file),
            remedy="copy its Python files into the folder and take 'REPOSITORY--' out of 'auto_map'",
        )
    if not trusted and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise ModelwrightError(
            "the model brings Python files of its own, which would be run",
            where=str(file),
            remedy="read them; if you trust them, write  trust_remote_code: true",
        )


def settle_vocabulary(config: Any, vocabulary: int, *, stated: bool) -> None:
    """Give ``config`` the data's ``vocabulary``, unless it states a size of its own that is large enough."""
    if stated and config.vocab_size < vocabulary:
        raise ModelwrightError(
            f"the configuration has a vocab_size of {config.vocab_size}, but the data has {vocabulary} tokens",
            where="vocabulary",
            remedy="use the tokenizer that the model was made with, or leave vocab_size out",
        )
    if stated:
        return
    config.vocab_size = vocabulary
    for name in _SPECIAL:  # the defaults are those of another vocabulary
        value = getattr(config, name, None)
        if isinstance(value, int) and value >= vocabulary:
            setattr(config, name, None)
