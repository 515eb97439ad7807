"""The card of a directory for transformers: how to call it, and where it differs."""

from collections.abc import Mapping
from typing import Any

from jaxtl.data.preprocess import Preprocess
from jaxtl.data.sources.squad import SQuAD
from jaxtl.data.tokenizer import Tokenizer
from jaxtl.models.staged import Staged
from jaxtl.training.experiment import Experiment

_PIPELINES = {
    None: "image-classification",
    "class": "text-classification",
    "token": "token-classification",
    "next": "text-generation",
    "span": "question-answering",
    "mask": "fill-mask",
    "choice": "multiple-choice",
    "embedding": "feature-extraction",
    "pair": "zero-shot-image-classification",
    "similarity": "sentence-similarity",
}
# transformers 5 has no pipelines of these: class of the model, and how it is called.
_CALLS = {
    "span": (
        "AutoModelForQuestionAnswering",
        'model(**tokenizer(QUESTION, CONTEXT, return_tensors="pt"))',
    ),
    "choice": (
        "AutoModelForMultipleChoice",
        "model(**{name: ids[None] for name, ids in tokenizer("
        '[QUESTION] * len(CHOICES), CHOICES, padding=True, return_tensors="pt"'
        ").items()})",
    ),
}


def markdown(
    exp: Experiment,
    model: Staged,
    meta: Mapping[str, Any],
    pre: Preprocess,
    tokenizer: Tokenizer | None,
) -> str:
    """Writes the card as Markdown.

    Args:
      exp: the experiment of the run.
      model: its model, with its number of outputs.
      meta: of its checkpoint: "task", "step".
      pre: its preprocessing.
      tokenizer: of its texts; None for other inputs.
    """
    predict = getattr(model, "predict", None)
    if getattr(model, "READS", "") == "images" and predict == "class":
        predict = None
    pipeline = _PIPELINES[predict]
    library = "sentence-transformers" if predict == "similarity" else "transformers"
    lines = [f"- {line}" for line in _differences(exp, model, meta, pre, tokenizer)]
    return f"""---
library_name: {library}
pipeline_tag: {pipeline}
---

# {type(model).__name__}, trained with jaxtl

Task: {meta["task"]}. Checkpoint: step {meta["step"]}, seed {exp.seed}.

{_usage(pipeline, predict)}

{chr(10).join(lines)}
"""


def _usage(pipeline: str, predict: str | None) -> str:
    """The lines of Python that load the model and call it, indented."""
    if predict == "similarity":
        return """    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer("THIS_FOLDER")
    model.similarity(model.encode(FIRST), model.encode(SECOND))"""
    if predict in _CALLS:
        name, call = _CALLS[predict]
        return f"""    from transformers import AutoTokenizer, {name}
    tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
    model = {name}.from_pretrained("THIS_FOLDER").eval()
    {call}"""
    if predict == "embedding":
        return """    import transformers
    config = transformers.AutoConfig.from_pretrained("THIS_FOLDER")
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained("THIS_FOLDER").eval()
    model(**INPUTS)"""
    scored = ("image-classification", "text-classification")
    options = ", top_k=None" if pipeline in scored else ""
    options = ", candidate_labels=LABELS" if predict == "pair" else options
    return f"""    from transformers import pipeline
    predict = pipeline("{pipeline}", "THIS_FOLDER")
    predict(INPUT{options})"""


def _differences(
    exp: Experiment,
    model: Staged,
    meta: Mapping[str, Any],
    pre: Preprocess,
    tokenizer: Tokenizer | None,
) -> list[str]:
    """What a caller of the pipeline must know to get the run's own predictions."""
    lines, reads_pairs = [], getattr(model, "READS_PAIRS", False)
    if tokenizer is not None and isinstance(exp.data, SQuAD):
        lines.append(
            f"The run read contexts in windows of at most {tokenizer.max_length} "
            f"tokens, which share {exp.data.stride}, and took the best span of all of "
            f"at most {exp.data.max_answer_length} tokens."
        )
    elif tokenizer is not None and reads_pairs:
        lines.append(f"Texts are cut to at most {tokenizer.max_length} tokens.")
    elif tokenizer is not None:
        limit = tokenizer.max_length
        lines.append(
            f"The run cut texts to at most {limit} tokens; the pipeline does so with "
            "truncation=True."
        )
    elif getattr(model, "READS", "") == "texts":
        lines.append(
            "The run read token ids, not texts: the tokenizer is that of the "
            "pre-trained model."
        )
    if reads_pairs:
        lines.append("Each text is encoded by itself; the run predicts the cosine.")
    elif getattr(exp.data, "pair", None) is not None:
        lines.append('The model takes pairs: {"text": FIRST, "text_pair": SECOND}.')
    if meta["task"] == "regression":
        lines.append("The scores are the outputs themselves.")
    if meta["task"] == "multilabel":
        lines.append("The scores are a probability for each label, from a sigmoid.")
    if pre.size is not None and not exp.data.resizes_images:
        lines.append(
            "Where the run resized arrays, it did so in floating point; of files the "
            "pipeline's inputs differ by up to one level of 255."
        )
    if pre.channels == 1:
        lines.append(
            "The model takes gray images, but the pipeline gives three channels: call "
            "the model with pixel_values of one channel."
        )
    if exp.dtype != "float32":
        lines.append(
            f"The run computed in {exp.dtype}; in float32 the outputs differ by its "
            "rounding."
        )
    return lines or ["The pipeline gives the predictions of the run."]
