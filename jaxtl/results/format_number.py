"""Numbers as text."""


def number(metric: str, mean: float, half: float | None) -> str:
    """Formats a metric, shares as percentages."""
    percent = metric in SHARES
    scale, digits = (100.0, 1) if percent else (1.0, 4)
    text = f"{mean * scale:.{digits}f}"
    if half is not None:
        text += f" ± {half * scale:.{digits}f}"
    return text


SHARES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "exact_match",
    "ece",
    "source_accuracy",
)
