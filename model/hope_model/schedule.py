"""When a level is due: plain arithmetic on token positions."""


def run_lengths(phase: int, tokens: int, period: int) -> list[int]:
    """Cut a run of ``tokens`` that starts at ``phase`` so that no part crosses a multiple of ``period``.

    >>> run_lengths(5, 20, 8)
    [3, 8, 8, 1]
    """
    first = min(tokens, period - phase % period)
    whole, rest = divmod(tokens - first, period)
    return [first, *[period] * whole, *([rest] if rest else [])]
