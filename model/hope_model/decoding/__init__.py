"""Decoding a native Hope model on a CPU: sessions in place by row, their writes saved up."""

from hope_model.decoding.rows import DecodeRows, can_decode

__all__ = ["DecodeRows", "can_decode"]
