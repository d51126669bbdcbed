"""Decoding a native Hope model on a CPU: sessions in place by row, their writes saved up."""

from hope_model.decoding.block import can_decode
from hope_model.decoding.rows import DecodeRows

__all__ = ["DecodeRows", "can_decode"]
