"""The equation of a docstring, which is plain text, as LaTeX.

Docstrings write equations as their readers in a terminal see them, `½ Σ (θ − θ₀)²`.
"""

import re
import unicodedata

_FUNCTIONS = frozenset(
    [
        "exp",
        "log",
        "softmax",
        "max",
        "min",
        "mean",
        "argmax",
        "argmin",
        "tr",
        "cos",
        "sin",
        "tanh",
        "clip",
        "sigmoid",
        "vec",
        "diag",
        "KL",
        "CE",
        "JS",
        "Var",
        "Cov",
        "sign",
        "rank",
    ]
)
_SYMBOLS = {
    "½": r"\tfrac{1}{2} ",
    "Σ": r"\sum ",
    "Π": r"\prod ",
    "‖": r"\| ",
    "·": r"\cdot ",
    "−": "-",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∈": r"\in ",
    "→": r"\to ",
    "←": r"\leftarrow ",
    "∂": r"\partial ",
    "∇": r"\nabla ",
    "⊗": r"\otimes ",
    "⊙": r"\odot ",
    "∘": r"\circ ",
    "∞": r"\infty ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "×": r"\times ",
    "∝": r"\propto ",
    "…": r"\dots ",
    "′": "'",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
}
_ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀⁿᵏⁱˡ⁽⁾", "0123456789+-⊤nkil()", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ᵢⱼₖₙₜ", "0123456789+-ijknt", strict=True))
_BINARY = frozenset("·/=+−≤≥≠≈∈→←⊗⊙∝×<>")
_STRONG = frozenset("½ΣΠ‖−√²∂∇∝=+←∈≤≥⊗⊙") | frozenset(_RAISED)
_OPENING, _CLOSING = "([{⟨⌊", ")]}⟩⌋"
_MINIMUM = 10  # characters of an equation in the middle of a sentence

_WORD = re.compile(
    r"\w[\u0300-\u036f]+|[A-Za-z]+|\d[\d.,]*\d|.[\u0300-\u036f]*", re.DOTALL
)
_NO_INDEX = "".join([*_RAISED, *_LOWERED])
_SUBSCRIPT = re.compile(rf"(?:(?![{_NO_INDEX}_])\w)+|.")
_SUPERSCRIPT = re.compile(rf"(?:(?![{_NO_INDEX}_])\w)+(?:_\w)?|.")


def find(sentence: str) -> tuple[int, int] | None:
    """The place of the equation in a sentence.

    An equation is a run of words that are no English, with an operator in it and closed
    brackets; a comma ends it outside of brackets. The one that the sentence begins with
    counts, else the longest.

    Args:
      sentence: plain text, with code in backticks.

    Returns:
      (start, end) in characters, None where there is no equation.
    """
    plain = re.sub(r"`[^`]*`", lambda code: "`" * len(code[0]), sentence)
    runs = _runs(plain)
    if runs and runs[0][0] == 0 and runs[0][1] > 3:
        return runs[0] if _is_whole(plain[slice(*runs[0])]) else None
    places = [(a, b) for a, b in runs if _is_display(plain, a, b)]
    return max(places, key=lambda place: place[1] - place[0], default=None)


def _runs(text: str) -> list[tuple[int, int]]:
    """Where the longest runs of words of formulas begin and end."""
    words = list(re.finditer(r"\S+", text))
    runs, start, depth = [], None, 0
    for i, word in enumerate(words):
        around = (
            words[i - 1][0] if i else "",
            words[i + 1][0] if words[i + 1 :] else "",
        )
        if not _is_math(word[0], around):
            if start is not None:
                runs.append((start, words[i - 1].end()))
            start, depth = None, 0
            continue
        start = word.start() if start is None else start
        depth += sum((c in _OPENING) - (c in _CLOSING) for c in word[0])
        if word[0][-1] in ",;:." and depth <= 0:
            runs.append((start, word.end() - 1))
            start, depth = None, 0
    return runs if start is None else [*runs, (start, words[-1].end())]


def _is_math(word: str, around: tuple[str, str]) -> bool:
    bare = word.strip(",;:.")
    is_article = bare in ("a", "A") and re.match(r"[A-Za-z]{2}", around[1])
    if "`" in word or not bare or '"' in word or is_article:
        return False
    if bare.isalpha() and bare.isascii() and len(bare) > 1:
        return bare in _FUNCTIONS or any(w in _BINARY for w in around)
    is_word = re.fullmatch(r"[\w'’-]+", bare) and not re.search(
        r"[_\d]|[^\x00-\x7f]", bare
    )
    return len(bare) == 1 or not is_word


def _is_whole(text: str) -> bool:
    """Whether a run of words is an equation with both sides of its operators."""
    balance = sum((c in _OPENING) - (c in _CLOSING) for c in text)
    last = re.split(r"[\s(]", text)[-1]
    dangling = text[0] in _BINARY - {"−"} or text[-1] in _BINARY or last in _FUNCTIONS
    letters = re.sub(r"[\W\d_]", "", text)
    has_operator = bool(set(text) & (_STRONG | set("/·_^")))
    return balance == 0 and not dangling and has_operator and len(letters) > 1


def _is_display(sentence: str, start: int, end: int) -> bool:
    """Whether a run in the middle of a sentence is what the sentence is about."""
    text = sentence[start:end]
    is_definition = sentence[:start].endswith(", ") and re.match(r"\S+ = ", text)
    before = sum((c in _OPENING) - (c in _CLOSING) for c in sentence[:start])
    words = re.findall(r"[^\W\d_]+", text)
    is_strong = end - start >= _MINIMUM and bool(set(text) & _STRONG)
    is_strong = is_strong and not all(w.isascii() and len(w) > 2 for w in words)
    return _is_whole(text) and is_strong and not is_definition and before == 0


def latex(equation: str) -> str:
    """Converts an equation in plain text to LaTeX.

    Args:
      equation: such as `½ Σ_i (θ_i − θ₀)²`.

    Returns:
      Such as `\\tfrac{1}{2}  \\sum _{i} (θ_{i} - θ_{0})^{2}`.
    """
    parts, at = [], 0
    while at < len(equation):
        part, at = _atom(equation, at)
        parts.append(part)
    return "".join(parts)


def _atom(text: str, at: int) -> tuple[str, int]:
    """The LaTeX of a symbol with its indices and exponents, and where it ends."""
    if text[at] == "√" and at + 1 < len(text):
        radicand, at = _radicand(text, at + 1)
        return rf"\sqrt{{{radicand}}}", at
    word = _WORD.match(text, at)
    assert word is not None
    base, at = _symbol(word[0]), word.end()
    lower, upper, at = _indices(text, at)
    base += f"_{{{','.join(lower)}}}" if lower else ""
    base += f"^{{{''.join(upper)}}}" if upper else ""
    return base, at


def _radicand(text: str, at: int) -> tuple[str, int]:
    if text[at] != "(":
        return _atom(text, at)
    end = _closing(text, at)
    return latex(text[at + 1 : end]), end + 1


def _symbol(word: str) -> str:
    """The LaTeX of a symbol without its indices."""
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    if word in _FUNCTIONS:
        return rf"\operatorname{{{word}}}"
    if len(word) > 2 and word.isalpha() and word.isascii():
        return rf"\mathrm{{{word}}}"
    base, *accents = unicodedata.normalize("NFD", word)
    if accents and accents[0] in _ACCENTS:
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    return word


def _indices(text: str, at: int) -> tuple[list[str], list[str], int]:
    """What stands below and above a symbol, and where it ends."""
    lower: list[str] = []
    upper: list[str] = []
    while at < len(text):
        side = lower if text[at] == "_" or text[at] in _LOWERED else upper
        if text[at] in _LOWERED or text[at] in _RAISED:
            table = _LOWERED if text[at] in _LOWERED else _RAISED
            end = at
            while end < len(text) and text[end] in table:
                end += 1
            side.append("".join(table[c] for c in text[at:end]))
        elif text[at] in "_^" and text[at + 1 : at + 2] in ("{", "("):
            end = _closing(text, at + 1) + 1
            side.append(latex(text[at + 2 : end - 1]))
        elif text[at] in "_^":
            match = (_SUBSCRIPT if text[at] == "_" else _SUPERSCRIPT).match(
                text, at + 1
            )
            if match is None:
                break
            end = match.end()
            side.append(match[0] if match[0].isalnum() else latex(match[0]))
        else:
            break
        at = end
    return lower, upper, at


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at a place closes."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in _OPENING) - (text[end] in _CLOSING)
        if depth == 0:
            return end
    return len(text) - 1
