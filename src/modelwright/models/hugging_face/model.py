"""Any architecture of ``transformers``, from its configuration or a local folder; nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from modelwright.base.errors import MissingExtra, ModelwrightError, nearest
from modelwright.base.files import read_json
from modelwright.models.hugging_face.adapter import adapt
from modelwright.models.hugging_face.config import check_code, settle_vocabulary, written
from modelwright.models.hugging_face.folder import judge, quiet

try:
    import transformers
    from transformers.models.auto import modeling_auto as auto
except ImportError as error:
    raise MissingExtra("transformers", "the model 'transformers'") from error

Task = Literal[
    "causal-lm",
    "masked-lm",
    "seq2seq-lm",
    "sequence-classification",
    "token-classification",
    "image-classification",
    "audio-classification",
    "features",
]
_FAMILIES: dict[str, tuple[Any, Any]] = {  # the class that chooses, and its types by name
    "causal-lm": (transformers.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "masked-lm": (transformers.AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "seq2seq-lm": (transformers.AutoModelForSeq2SeqLM, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "sequence-classification": (
        transformers.AutoModelForSequenceClassification,
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    "token-classification": (
        transformers.AutoModelForTokenClassification,
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    ),
    "image-classification": (
        transformers.AutoModelForImageClassification,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    ),
    "audio-classification": (
        transformers.AutoModelForAudioClassification,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    ),
    "features": (transformers.AutoModel, auto.MODEL_MAPPING_NAMES),
}
_SMALL = {
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """A model of the package ``transformers``: its classes, its names of parameters, a plain tensor as output.

    Nothing is downloaded: the configuration is written here or lies in a local folder, and so do the weights.

    Attributes:
        config: ``{model_type: llama, hidden_size: 64, ...}`` with the fields of that type's configuration; or the path
            of a folder with a ``config.json``, or of such a file. The default is a small llama.
        task: which head the model has.
        vocabulary: tokens that the data has; ``None``: those of the data. A configuration that states a
            ``vocab_size`` keeps it, as long as it is at least this.
        classes: outputs of a classifier; ``None``: the classes of the data, or what the configuration says.
        channels: channels of images; ``None``: those of the data, or what the configuration says.
        image_size: height and width of images; ``None``: as for ``channels``.
        weights: load the weights of the folder; ``False``: new ones from the seed.
        dtype: of the parameters: ``float32``, ``bfloat16`` or ``float16``. Weights in a file are converted.
        attention: kernel: ``sdpa`` (torch's fused one) or ``eager`` (the formula).
        trust_remote_code: run the Python files that lie in the folder, which some models need.
    """

    config: Mapping[str, Any] | str = field(default_factory=lambda: dict(_SMALL))
    task: Task = "causal-lm"
    vocabulary: int | None = None
    classes: int | None = None
    channels: int | None = None
    image_size: int | None = None
    weights: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, known in (("task", get_args(Task)), ("dtype", tuple(_DTYPES)), ("attention", ("sdpa", "eager"))):
            if getattr(self, name) not in known:
                raise ModelwrightError(
                    f"transformers: {name} is not {getattr(self, name)!r}",
                    where=name,
                    remedy=nearest(str(getattr(self, name)), known),
                )
        for name in ("vocabulary", "classes", "channels", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ModelwrightError(f"transformers: {name} is at least 1, not {value}", where=name)
        self._check_config()

    def build(self) -> nn.Module:
        """The module, in training mode; ``model(inputs)`` gives logits, or hidden states for the task ``features``.

        Raises:
            ModelwrightError: ``transformers`` has no such model, a field is misspelt, sizes disagree with the data,
                the folder is incomplete or does not fit.
        """
        with quiet(), self._explained():
            config = self._config()
            self._check_task(config)
            self._settle(config)
            model = self._loaded(config) if self.weights else self._fresh(config)
        if self.task == "sequence-classification" and model.config.pad_token_id is None:
            # After building: an embedding would not learn its row. Texts end in token 0 ('!' of GPT-2), but hardly
            # in the last, which is the end of a text, or a rare one.
            model.config.pad_token_id = getattr(model.config.get_text_config(), "vocab_size", 1) - 1
        return adapt(model).train()

    def _check_config(self) -> None:
        if isinstance(self.config, str):
            return
        if "model_type" not in self.config:
            raise ModelwrightError(
                "transformers: config does not say which 'model_type'",
                where="config",
                remedy="for example  config: {model_type: llama, hidden_size: 64, num_hidden_layers: 2}",
            )
        for name in ("weights", "trust_remote_code"):
            if getattr(self, name):
                raise ModelwrightError(
                    f"transformers: {name} needs a folder, and config is a mapping",
                    where=name,
                    remedy="give the path of the folder as config",
                )

    def _check_task(self, config: Any) -> None:
        known = [task for task, (_, types) in _FAMILIES.items() if config.model_type in types]
        if self.task in known or getattr(config, "auto_map", None):
            return
        raise ModelwrightError(
            f"transformers has no '{config.model_type}' for the task '{self.task}'",
            where="task",
            remedy=f"it has: {', '.join(known)}",
        )

    def _config(self) -> Any:
        return written(self.config) if isinstance(self.config, Mapping) else self._kept(Path(self.config))

    def _kept(self, path: Path) -> Any:
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise ModelwrightError(
                "there is no such folder with a config.json, and nothing is downloaded",
                where=str(path),
                remedy="copy the model's folder to this machine first",
            )
        check_code(read_json(file), file, trusted=self.trust_remote_code)
        return transformers.AutoConfig.from_pretrained(
            str(file.parent if file.name == "config.json" else file),
            local_files_only=True,
            trust_remote_code=self.trust_remote_code,
        )

    def _settle(self, config: Any) -> None:
        """Bring in what the data says, where the configuration does not."""
        stated = frozenset(self.config) if isinstance(self.config, Mapping) else frozenset(vars(config))
        text = config.get_text_config()
        if self.vocabulary is not None and hasattr(text, "vocab_size"):
            settle_vocabulary(text, self.vocabulary, stated="vocab_size" in stated)
        if self.task.endswith("classification"):
            self._settle_classes(config, stated)
        for value, name in ((self.channels, "num_channels"), (self.image_size, "image_size")):
            if value is not None and name not in stated and hasattr(config, name):
                setattr(config, name, value)

    def _settle_classes(self, config: Any, stated: frozenset[str]) -> None:
        if self.classes is not None and config.num_labels != self.classes:
            config.num_labels = self.classes
        elif self.classes is None and isinstance(self.config, Mapping) and not stated & {"num_labels", "id2label"}:
            raise ModelwrightError(
                "transformers: the number of classes is not known",
                where="classes",
                remedy="set model.classes, or use data that states it",
            )

    def _fresh(self, config: Any) -> Any:
        return _FAMILIES[self.task][0].from_config(
            config,
            dtype=_DTYPES[self.dtype],
            attn_implementation=self.attention,
            trust_remote_code=self.trust_remote_code,
        )

    def _loaded(self, config: Any) -> Any:
        folder = Path(str(self.config))
        folder = folder if folder.is_dir() else folder.parent
        model, report = _FAMILIES[self.task][0].from_pretrained(
            str(folder),
            config=config,
            dtype=_DTYPES[self.dtype],
            attn_implementation=self.attention,
            local_files_only=True,
            trust_remote_code=self.trust_remote_code,
            ignore_mismatched_sizes=True,  # they are judged below
            output_loading_info=True,
        )
        judge(model, report, folder)
        return model

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ModelwrightError:
            raise
        except Exception as error:
            where = self.config if isinstance(self.config, str) else f"model_type: {self.config['model_type']}"
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            remedy = "try  attention: eager" if "attention implementation" in str(error) else ""
            what = f"transformers cannot build it for the task '{self.task}': {first}"
            raise ModelwrightError(what, where=where, remedy=remedy) from error
