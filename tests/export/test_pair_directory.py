"""A run of CLIP from a directory of transformers, against what is written from it."""

import dataclasses
import string

import numpy as np
import PIL.Image
import pytest

import jaxtl as tl
from jaxtl.cli.main import main
from jaxtl.core import tree as trees
from jaxtl.data import preprocess

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDES |= {"intermediate_size": 12}
COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory of CLIPModel with its tokenizer and its image processor."""
    folder = tmp_path_factory.mktemp("base")
    letters = [*string.ascii_lowercase]
    pieces = [*letters, *(x + "</w>" for x in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(
        vocab=vocab, merges=[], model_max_length=20
    ).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size=8, crop_size=8).save_pretrained(folder)
    text = {"vocab_size": len(vocab), "max_position_embeddings": 20}
    config = transformers.CLIPConfig(
        vision_config={**SIDES, "image_size": 8, "patch_size": 4},
        text_config={**SIDES, **text, "eos_token_id": len(vocab) - 1},
        projection_dim=6,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng, rows = np.random.default_rng(0), ["image,text"]
    for name, color in COLORS.items():
        for i in range(4):
            x = np.clip(rng.normal(color, 20, (11, 9, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(x).save(folder / f"{name}{i}.png")
            rows.append(f"{name}{i}.png,{name} {'abcd'[i]}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(base, captions, tmp_path_factory):
    """Two steps of the text tower beside a locked image tower."""
    init = tl.pretrained.FromHub(str(base))
    exp = tl.Experiment(
        model=init.model(),
        init=init,
        data=tl.data.ImageText(str(captions / "captions.csv"), val=3, test=0),
        optim=tl.optim.AdamW(lr=1e-2, groups={"image_.*": tl.FROZEN, ".*": 1.0}),
        steps=2,
        batch=6,
    )
    run = tl.setup(exp, tmp_path_factory.mktemp("run") / "run")
    run.before = trees.flatten(run.params)
    run.before = {path: np.array(x) for path, x in run.before.items()}
    tl.train(run, progress=False)
    return run


def test_transformers_gives_the_run_s_embeddings(run, captions, tmp_path):
    after = trees.flatten(run.params)
    moved = {p for p, x in run.before.items() if (np.asarray(after[p]) != x).any()}
    assert not any(path.startswith("image_") for path in moved)
    assert {"text_head/dense/kernel", "head/log_scale"} <= moved
    out = tmp_path / "out"
    assert main(["convert", str(run.directory), str(out)]) == 0
    theirs = transformers.CLIPModel.from_pretrained(out).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ours = tl.load_model(run.directory)
    dataset = ours.datasets["target"]
    rows = dataset.rows["val"]
    x = {name: part[rows] for name, part in dataset.x.items()}
    listed = (captions / "captions.csv").read_text().splitlines()[1:]
    files, texts = zip(*(listed[i].split(",") for i in rows))
    pictures = [PIL.Image.open(captions / file) for file in files]
    with torch.no_grad():
        pixels = processor(pictures, return_tensors="pt")
        want = theirs(
            **tokenizer(list(texts), padding=True, return_tensors="pt"), **pixels
        )
    images = preprocess.apply(ours.preprocess, x.pop("image"))
    u = ours.config.encode_image(ours.params, images)
    v = ours.config.encode_text(ours.params, x)
    np.testing.assert_allclose(u, want.image_embeds, atol=1e-4)
    np.testing.assert_allclose(v, want.text_embeds, atol=1e-4)
    scale = ours.config.logit_scale(ours.params)
    np.testing.assert_allclose(scale, theirs.logit_scale.exp().detach(), rtol=1e-5)


def test_adapters_of_low_rank_move_both_towers(run):
    peft = tl.peft.LoRA(rank=2, select=".*attention/(query|value)/kernel")
    optim = tl.optim.AdamW(lr=1e-2)
    adapted = tl.setup(dataclasses.replace(run.exp, peft=peft, optim=optim))
    result = tl.train(adapted, progress=False)
    assert np.isfinite(result["val"]["mean_recall"])
    after = trees.flatten(adapted.params)
    moved = {p for p, x in run.before.items() if (np.asarray(after[p]) != x).any()}
    kernels = {p for p in after if p.endswith(("query/kernel", "value/kernel"))}
    assert moved == {*kernels, "head/log_scale"}  # the head trains as a whole
    assert {path.partition("_")[0] for path in kernels} == {"image", "text"}
