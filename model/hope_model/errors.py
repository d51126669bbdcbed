"""Errors of the model package.

HopeModelError            base; `code` is stable and machine readable
 ├─ ConfigError           config_invalid      a configuration that cannot be built
 ├─ CheckpointError       checkpoint_invalid  files that are missing, damaged or do not fit their config
 ├─ StateError            state_invalid       a session state that does not fit the model's StateSpec
 ├─ TokenizerError        tokenizer_invalid   a tokenizer file or token ids that cannot be used
 ├─ DataError             data_invalid        a training shard or mixture that cannot be read
 ├─ TrainError            train_failed        a training run that cannot start, go on or resume
 ├─ EvaluationError       evaluation_failed   a server that is measured does not answer as it should
 ├─ ExperimentError       experiment_invalid  results of the experiment that are broken or of other settings
 ├─ QuantizeError         quantize_failed     weights that cannot be kept in so few bits, or not here
 └─ ConversionError       conversion_failed   a pre-trained model that cannot be brought into our format
"""

from __future__ import annotations

from typing import ClassVar


class HopeModelError(Exception):
    """Base of every error that the model package raises on purpose."""

    code: ClassVar[str] = "model_error"


class ConfigError(HopeModelError):
    """A model or training configuration is inconsistent or out of range."""

    code = "config_invalid"


class CheckpointError(HopeModelError):
    """A checkpoint directory is incomplete, damaged or does not match its config."""

    code = "checkpoint_invalid"


class StateError(HopeModelError):
    """A state has other names, shapes, dtypes or values than the model's StateSpec allows."""

    code = "state_invalid"


class TokenizerError(HopeModelError):
    """A tokenizer file, a text or a token id cannot be used."""

    code = "tokenizer_invalid"


class DataError(HopeModelError):
    """A shard, a row or a mixture file cannot be read; the message names file and row."""

    code = "data_invalid"


class TrainError(HopeModelError):
    """A training run cannot start, continue or resume."""

    code = "train_failed"


class ConversionError(HopeModelError):
    """A pre-trained model cannot be fetched, read, understood or written in our format."""

    code = "conversion_failed"


class QuantizeError(HopeModelError):
    """A model's weights cannot be quantised as asked, or this machine cannot multiply with them."""

    code = "quantize_failed"


class EvaluationError(HopeModelError):
    """A server that is measured does not answer, or not as the evaluation needs it."""

    code = "evaluation_failed"


class ExperimentError(HopeModelError):
    """The experiment's results or its folder are broken, or of other settings; the message names them."""

    code = "experiment_invalid"
