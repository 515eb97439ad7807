"""The documentation site: what is generated for it, and the site that was built."""

import collections
import dataclasses
import html
import html.parser
import inspect
import pathlib
import re

import browser
import pytest

from docs.builder import (
    costs,
    effects,
    equations,
    methods,
    public_names,
    reference,
    results,
    signatures,
    site_links,
    table_text,
)
from docs.builder.repository import Links
from jaxtl.cli import main

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "site"
built = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="python docs/build.py builds the site"
)


@pytest.mark.parametrize(
    ("sentence", "formula", "latex"),
    [
        (
            "½ Σ F (θ − θ₀)² over the elements of one leaf.",
            "½ Σ F (θ − θ₀)²",
            r"\tfrac{1}{2}  \sum  F (θ - θ_{0})^{2}",
        ),
        (
            "(1/K) Σ_{j≠k} C̃_jk, C̃ the class correlation.",
            "(1/K) Σ_{j≠k} C̃_jk",
            r"(1/K) \sum _{j\ne k} \tilde{C}_{jk}",
        ),
        (
            "Σ_g √s_g · ‖θ_g − θ₀_g‖₂ over the groups g.",
            "Σ_g √s_g · ‖θ_g − θ₀_g‖₂",
            r"\sum _{g} \sqrt{s_{g}} \cdot  \| θ_{g} - θ_{0,g}\| _{2}",
        ),
        (
            "−(1 − p_y)^γ · log p_y of each example.",
            "−(1 − p_y)^γ · log p_y",
            r"-(1 - p_{y})^{γ} \cdot  \operatorname{log} p_{y}",
        ),
    ],
)
def test_an_equation_is_found_and_typeset(sentence, formula, latex):
    start, end = equations.find(sentence)
    assert sentence[start:end] == formula
    assert equations.latex(formula) == latex


@pytest.mark.parametrize(
    "sentence",
    [
        "Stages `embeddings, layer_0 … layer_{n−1}, head`; see `ViT`.",
        "Raises if a value is not a whole number of at least 1.",
        "½ · (`domain_loss` of the source + that of the target), for both results.",
        "`fixmatch` of a stream's batch, for a threshold ≤ 1.",
    ],
)
def test_english_is_no_equation(sentence):
    assert equations.find(sentence) is None


def test_every_public_name_has_a_docstring_that_names_its_fields():
    members = dict(public_names.top_level())
    for namespace in public_names.namespaces():
        members |= dict(namespace.members())
    assert len(members) > 400
    for name, value in members.items():
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        assert value.__doc__, name
        if dataclasses.is_dataclass(value):
            texts = " ".join(inspect.getdoc(c) or "" for c in value.__mro__)
            fields = {f.name for f in dataclasses.fields(value) if f.init}
            linen = {"parent", "name"}  # of every module
            unsaid = {f for f in fields - linen if not re.search(rf"\b{f}\b", texts)}
            assert not unsaid, name


def test_every_family_has_a_page_with_all_its_methods():
    families = [n for n in public_names.namespaces() if n.is_family]
    assert {"regularizers", "domain", "peft", "optim"} <= {f.name for f in families}
    for family in families:
        text = methods.page(family, "")
        for path, _ in family.members():
            assert f"jaxtl.{path}" in text, path
    text = methods.page(next(f for f in families if f.name == "regularizers"), "")
    assert "- Tests: `tests/terms/regularizers/test_l2sp.py`" in text
    assert "[quickstart](../experiments/quickstart.md)" in text


def test_every_class_of_a_family_has_the_cost_of_a_step_or_a_reason():
    families = [n for n in public_names.namespaces() if n.is_family]
    members = [member for family in families for member in family.members()]
    classes = {path for path, value in members if inspect.isclass(value)}
    counted = set(costs.counted())
    assert {c for c in classes - counted if not costs.reason(c)} == set()
    assert counted <= classes
    assert not counted & {path for path in costs.REASONS if "." in path}
    assert {path for path in costs.REASONS if "." in path} <= classes
    [domain] = [family for family in families if family.name == "domain"]
    text = methods.page(domain, "")
    assert text.count("- Cost of a step: ") == len(
        [c for c in classes if "domain." in c]
    )
    assert costs.line("domain.DANN") in text


def test_the_cost_of_a_step_is_told_with_what_it_is_a_multiple_of(monkeypatch):
    row = {"network": "CNN", "plain": "CE", "flops": 12.34, "temporary": 0.987}
    rows = {"a.B": {**row, "loops": False}, "a.C": {**row, "loops": True}}
    monkeypatch.setattr(costs, "counted", lambda: rows)
    assert costs.line("a.B") == (
        "- Cost of a step: 12 × the operations and 0.99 × the temporary memory of CE "
        "(CNN)"
    )
    assert ": at least 12 × the operations" in costs.line("a.C")
    monkeypatch.setitem(rows["a.B"], "flops", 0.000321)
    assert ": 0.00032 × the operations" in costs.line("a.B")
    assert costs.line("optim.Cosine").startswith("- Cost of a step: one number")
    assert costs.line("domain.DANN") == costs.note("domain") == ""


_TABLES = """Two tables.

Expected:  test accuracy, mean ± 95 % interval over 3 seeds:

                       M → U          U → M
source only            54.2 ± 3.6     49.4 ± 7.2
DAN                    73.4 ± 10.9    –
entropy                ▼26.6 ± 12.9   49.0 ± 1.0
no method              26.6 ± 12.9    49.0 ± 1.0

Error of the one on val and test, 61.2 ± 4.1 in a sentence:

features     val          test
scratch      30.0 ± 1.0   30.0 ± 1.0
DANN, late   10.0 ± 1.0   20.0 [15.0, 25.0]
"""


def test_effects_are_read_from_the_tables_of_a_docstring():
    first, second = effects.tables(_TABLES)
    rows = effects.table_effects("x", first)
    told = [(e.label, e.setting, e.value, e.without, e.verdict) for e in rows[:3]]
    assert told == [
        ("DAN", "M → U", "73.4 ± 10.9", "54.2 ± 3.6", "better"),
        ("entropy", "M → U", "26.6 ± 12.9", "54.2 ± 3.6", "worse"),
        ("entropy", "U → M", "49.0 ± 1.0", "49.4 ± 7.2", "not told apart"),
    ]
    assert [e.difference for e in rows[:3]] == ["+19.2", "−27.6", "−0.4"]
    [late] = effects.table_effects("x", second)  # its error fell; val is no effect
    assert (late.setting, late.difference, late.verdict) == (
        "features test",
        "−10.0",
        "better",
    )
    paths = [effects.method(e.label) for e in (*rows, late)]
    assert paths == [
        "domain.DAN",
        *["domain.EntropyMinimization"] * 2,
        *["", ""],
        "domain.DANN",
    ]


_PARTS = """Rows that belong together.

             accuracy
A            50.0 ± 1.0
  late       60.0 ± 1.0
DAN          70.0 ± 1.0
  late       40.0 ± 1.0
CDAN+E, BSP  1.0 ± 1.0
  late       2.0 ± 1.0
"""


def test_an_indented_row_is_of_the_method_above_and_its_baseline():
    text = _PARTS.replace("A  ", "CE ", 1)
    [table] = effects.tables(text)
    told = {e.label: (e.baseline, e.verdict) for e in effects.table_effects("x", table)}
    assert told["DAN"] == ("CE", "better")
    assert told["DAN, late"] == ("CE, late", "worse")
    assert effects.method("CDAN+E, BSP, late") == "domain.BSP"
    assert set(told) == {"DAN", "DAN, late", "CDAN+E, BSP", "CDAN+E, BSP, late"}


def test_a_column_of_differences_keeps_its_signs():
    text = """Means.

                    left          Δm, %
    single tasks    90.0 ± 1.0
    MGDA            80.0 ± 1.0    -6.3 ± 6.5
    PCGrad          95.0 ± 1.0    1.0 [−0.5, 2.5]
    CAGrad          85.0 ± 1.0    −2.0 ± 0.5
    FAMO            99.0 ± 1.0    3.0 ± 2.9
    """
    [table] = effects.tables(text)
    rows = effects.table_effects("x", table)
    changes = [(e.value, e.difference, e.verdict) for e in rows if e.setting != "left"]
    assert changes == [
        ("−6.3 ± 6.5", "−6.3 ± 6.5", "not told apart"),
        ("1.0 [−0.5, 2.5]", "1.0 [−0.5, 2.5]", "not told apart"),
        ("−2.0 ± 0.5", "−2.0 ± 0.5", "worse"),
        ("3.0 ± 2.9", "3.0 ± 2.9", "better"),
    ]
    [table] = effects.tables(text.replace("Means.", "Error.").replace("Δm, %", "Δ"))
    rows = effects.table_effects("x", table)
    verdicts = [e.verdict for e in rows if e.setting != "left"]
    assert verdicts == ["not told apart"] * 2 + ["better", "worse"]


def test_a_column_of_differences_judges_the_column_that_it_names():
    text = """Error.

    scratch         40.0 ± 9.0    0.0 ± 0.0     40.0 ± 9.0
    DANN            35.0 ± 9.0    -5.0 ± 2.0    35.0 ± 9.0
    """
    heads = "                    small         Δ small       large\n    scratch"
    [table] = effects.tables(text.replace("    scratch", heads, 1))
    small, large = effects.table_effects("x", table)
    assert (small.value, small.without) == ("35.0 ± 9.0", "40.0 ± 9.0")
    assert (small.difference, small.verdict) == ("−5.0 ± 2.0", "better")
    assert (large.difference, large.verdict) == ("−5.0", "not told apart")


# Rows of experiments' tables that are no methods of the package: other classifiers,
# settings of the training, references. A row that is in no list is a lost effect.
_NO_METHODS = {
    "ablation_l2sp_jacobian": {"both"},
    "digits_adaptation": {"target labels", "Tent"},
    "kinds_of_transfer": {
        "unsupervised: no labels",
        "feature extraction: 5 labels per class",
        "transferred layers, block1 frozen: 5 per class",
        "semi-supervised: 5 per class, the rest unlabelled",
        "weakly supervised: all labels, 40 % of them wrong",
    },
    "labels_vs_strategy": {"USPS → MNIST"}
    | {f"baseline: {name}" for name in ("SVM", "k-NN", "logistic regression")},
    "omniglot_one_shot": {
        f"{images}, {classifier}"
        for images in ("small1", "small2", "both")
        for classifier in ("1-NN, cosine", "ProtoNet, 1-NN", "SimpleShot")
    }
    | {"pixels, 1-NN, cosine"},
    "omniglot_one_shot_learners": {"Siamese, Euclidean", "Siamese, cosine"},
    "penalties": {"WiSE-FT"},
    "tuning_shootout": {"WiSE-FT"},
}
# Experiments whose intervals are of weights and amounts of data, not of methods.
_NO_EFFECTS = {"cifar_jpeg_resnet20", "fixmatch_cifar", "kinds_of_transfer"}
_NO_EFFECTS |= {"omniglot_one_shot", "stories_lm"}


def test_no_row_of_a_table_is_lost():
    listed = {(e, label) for e, labels in _NO_METHODS.items() for label in labels}
    assert effects.unknown_labels() == listed
    assert effects.without_effects() == _NO_EFFECTS


def test_every_effect_has_a_baseline():
    family = {path for path, _ in effects._all()}
    without = {
        (e.experiment, e.setting)
        for path in family
        for e in effects.of(path)
        if not e.baseline
    }
    # Δm is itself a difference from single tasks.
    assert without == {
        ("multi_mnist", "Δm, %"),
        ("multi_mnist", "Δ equal weights"),
        ("office_tasks", "Δm, %"),
    }
    [episodes] = effects.of("fewshot.FOMAML")
    assert (episodes.baseline, episodes.without) == ("untrained features", "45.5 ± 7.6")


def test_effects_are_read_from_the_report_of_a_sweep():
    head = "| variant | method | val accuracy % | test accuracy % | seeds | − full | "
    rows = ["| a | full | 1 | **5.0 ± 1.0** | 5 |  |  |  |"]
    rows += ["| a | L2-SP | 1 | 4.0 ± 1.0 | 5 | −1.0 ± 0.2 | 0.01 | worse |"]
    text = "\n".join(["", "## test accuracy %", "", head + "p | verdict |", "|", *rows])
    [effect] = effects.report_effects("x", text)
    assert (effect.setting, effect.value, effect.without) == (
        "a",
        "4.0 ± 1.0",
        "5.0 ± 1.0",
    )
    assert (effect.difference, effect.verdict) == ("−1.0 ± 0.2", "worse")


def test_a_method_page_tells_harm_as_measured():
    family = next(n for n in public_names.namespaces() if n.name == "domain")
    text = methods.page(family, "")
    afn = text.partition("\n## AFN\n")[2].partition("\n## ")[0]
    gain, harm = [line for line in afn.splitlines() if "MobileNet mean" in line]
    assert "[office_caltech](../experiments/office_caltech.md)" in harm
    assert "source only 79.7 ± 2.7 | +5.7 | better |" in gain
    assert "without BatchNorm MobileNet mean" in harm
    assert "source only 80.4 ± 0.9 | −8.6 | **worse** |" in harm
    summary = text.partition("## Measured effects")[2].partition("\n## ")[0]
    assert "| [AFN](#afn) |" in summary


def test_every_command_has_its_arguments_on_the_page():
    text = reference.command_line_page()
    for name in main.COMMANDS:
        assert f"### jaxtl {name}\n" in text
    assert "| `--which best\\|last` | checkpoint of the run (default: best) |" in text


def test_the_negative_page_tells_what_came_out_and_not_what_was_done(tmp_path):
    docstrings = {
        "a": "Harm by *a*.\n\nNothing was tuned. The term loses 2 points. It gains.",
        "b": "A quiet one.\n\nNothing was tried beyond; the runs chose nothing.",
        "c": "A case of negative transfer.\n\nIt was run for long.",
    }
    files = [tmp_path / f"{name}.py" for name in docstrings]
    for file, text in zip(files, docstrings.values(), strict=True):
        file.write_text(f'"""{text}"""')
    sections = results.negative_page(files).split("\n\n## ")[1:]
    assert [" ".join(section.split()) for section in sections] == [
        r"[Harm by \*a\*](../experiments/a.md) - The term loses 2 points.",
        "[A case of negative transfer](../experiments/c.md) - Its table tells it.",
    ]


def test_links_of_the_repository_become_links_of_the_site():
    links = Links({"docs/a.md": "methods/a.md", "experiments/x.py": "experiments/x.md"})
    text = "[a](../a.md#b) [e](../../experiments/x.py) [f](https://example.com)"
    assert links.converted(text, "docs/h/t.md", "h/t.md") == (
        "[a](../methods/a.md#b) [e](../experiments/x.md) [f](https://example.com)"
    )
    with pytest.raises(ValueError, match=r"docs/h/t\.md: the link to \.\./\.\./no\.md"):
        links.converted("[n](../../no.md)", "docs/h/t.md", "h/t.md")


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="#x"> <a href="b.html#y">')
    (tmp_path / "b.html").write_text('<a href="c.html"> <a href="https://example.com">')
    assert site_links.broken(tmp_path) == [
        "a.html: b.html#y leads nowhere",
        "b.html: c.html leads nowhere",
    ]


@pytest.mark.parametrize(
    "page", ["domain", "imbalance", "losses", "merging", "noisy", "optim", "peft"]
    + ["alignment", "choosing", "ensembles_and_probes", "generalization", "semi"]
    + ["regularizers"],
)  # fmt: skip
def test_files_and_tests_of_the_tables_exist(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = [r.split(" | ") for r in text.splitlines() if re.match(r"\| [^-*]", r)]
    for *_, file, test in (
        row for row in rows if len(row) == 5 and row[0] != "| method"
    ):
        for folder, paths in (("jaxtl", file), ("tests", test.rstrip(" |"))):
            for path in filter(None, re.split(r", ", paths.strip())):
                place = ROOT / folder / path
                assert place.with_suffix(".py").exists() or place.is_dir(), (page, path)


@dataclasses.dataclass
class _Part:
    pass


_Part.__module__ = "jaxtl.part"  # as a class of the package


@dataclasses.dataclass
class _Whole:
    pairs: dict[str, int] = dataclasses.field(default_factory=dict)
    part: _Part = dataclasses.field(default_factory=_Part)
    other: int = dataclasses.field(default_factory=lambda: 3)


def test_a_signature_shows_what_its_factories_make():
    text = "(pairs: dict[str, int] = <factory>, part: _Part = <factory>, other: int = "
    text += "<factory>, make: Callable = <function scale_by_lion>)"
    shown, _ = signatures.process(None, "class", "", _Whole, None, text, None)
    assert shown == (
        "(pairs: dict[str, int] = {}, part: _Part = _Part(), other: int = ..., "
        "make: Callable = scale_by_lion)"
    )


def test_a_signature_of_a_model_leaves_out_the_fields_of_linen():
    text = "(width: int = 3, parent: ~flax.Module | None = <flax._Sentinel object>, "
    text += "name: str | None = None, *, depth: int = 2)"
    shown, _ = signatures.process(None, "class", "", str, None, text, None)
    assert shown == "(width: int = 3, *, depth: int = 2)"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("full 78.2 ± 3.7", ["full 78.2\u00a0±\u00a03.7"]),
        ("semi/vat, semi/test_vat", ["semi/<wbr>vat,<br>semi/<wbr>test_<wbr>vat"]),
        ("tl.optim.HeadOnly(groups=", ["tl.optim.<wbr>HeadOnly(<wbr>groups="]),
        ("e.g. 0.01, of 1,795", ["e.g. 0.01, of 1,795"]),
        ("0.97–1.07, Gauss–Newton", ["0.97–\u20601.07, Gauss–Newton"]),
    ],
)
def test_long_words_of_tables_break_between_their_parts(text, pieces):
    nodes = table_text.with_breaks(text)
    assert ["".join(node.astext() for node in nodes)] == pieces


@built
@pytest.mark.parametrize("word", ["L2-SP", "freeze", "imbalanced"])
def test_the_search_finds(word, chromium):
    chromium.open(SITE / "search.html", f"?q={word}")
    count = "document.querySelectorAll('#search-results li').length"
    while "finished" not in chromium.run("document.body.innerText"):
        pass
    assert chromium.run(count) > 2


@built
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "page",
    ["index", "concepts/batch", "methods/regularizers", "methods/domain"]
    + ["reference/data", "experiments/digits_adaptation", "gallery/05_ablation"],
)
def test_a_page_fits_a_small_screen_in_light_and_dark(page, dark, chromium):
    chromium.open(SITE / f"{page}.html", width=390, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") == 390
    color = chromium.run("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", color)[:3])) / 3
    assert (brightness < 80) == dark
    assert chromium.run("[...document.images].every((i) => i.naturalWidth > 0)")


class _Page(html.parser.HTMLParser):
    """What a page loads, its images, and its tables that do not scroll."""

    def __init__(self):
        super().__init__()
        self.containers, self.count, self.outside = [], 0, 0
        self.addresses, self.images, self.tags = [], [], collections.Counter()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags[tag] += 1
        if tag == "div":
            self.containers.append((values.get("class") or "").split())
        if tag == "table":
            # of docs/static/site.css, and of a report's page
            scroll = {"table-wrapper", "text_html", "scroll"}
            self.count += 1
            self.outside += not any(scroll & set(c) for c in self.containers)
        if tag == "img":
            self.images.append(values.get("alt"))
        loaded = {"link": "href", "script": "src", "img": "src", "iframe": "src"}
        if values.get("rel") not in ("canonical", "license"):
            self.addresses.append(values.get(loaded.get(tag, "")) or "")

    def handle_endtag(self, tag):
        if tag == "div":
            self.containers.pop()


@pytest.fixture(scope="module")
def pages():
    pages = {str(path.relative_to(SITE)): _Page() for path in SITE.rglob("*.html")}
    for path, page in pages.items():
        page.feed((SITE / path).read_text())
    return pages


@built
def test_every_table_scrolls_in_its_container(pages):
    rule = (ROOT / "docs/static/site.css").read_text()
    assert re.search(r"\.table-wrapper, \.text_html,.*overflow-x: auto", rule)
    outside = {path for path, page in pages.items() if page.outside}
    assert outside <= {"genindex.html"}
    assert sum(page.count for page in pages.values()) > 200


@built
def test_no_page_loads_anything_from_a_network(pages):
    for path, page in pages.items():
        remote = [a for a in page.addresses if re.match(r"(https?:)?//", a)]
        assert not remote, path
    styles = [path.read_text() for path in SITE.rglob("*.css")]
    assert styles
    assert not any(re.search(r"(@import|url\()\W*(https?:)?//", s) for s in styles)


@built
def test_every_image_has_a_text(pages):
    assert all(all(page.images) for page in pages.values())
    assert sum(len(page.images) for page in pages.values()) > 50


@built
def test_equations_of_notebooks_are_typeset(pages):
    path = "gallery/03_jacobian_difference.html"
    assert pages[path].tags["math"] > 10
    assert "$" not in re.sub(r"(?s)<pre.*?</pre>", "", (SITE / path).read_text())


@built
def test_no_signature_is_cut_within_brackets(pages):
    signature = re.compile(r'(?s)<dt class="sig sig-object.*?</dt>')
    count = 0
    for path in pages:
        for match in signature.finditer((SITE / path).read_text()):
            text = html.unescape(re.sub(r"<[^>]+>", "", match[0]))
            assert not re.search(r"[ =]<\w|~|\]=", text), (path, text)
            count += 1
    assert count > 500


@built
@pytest.mark.parametrize("name", ["sweep", "run"])
def test_the_gallery_shows_the_report_of_a_sweep_and_of_a_run(name, pages):
    assert (
        f'href="report_of_a_{name}.html"' in (SITE / "gallery/index.html").read_text()
    )
    page = pages[f"gallery/report_of_a_{name}.html"]
    assert page.tags["svg"] >= 4
    assert not any(page.addresses) or all(
        a.startswith("data:") for a in page.addresses if a
    )


@built
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(width, pages, chromium):
    wide = "document.documentElement.scrollWidth - innerWidth"
    excess = {}
    for path in sorted(pages):
        chromium.open(SITE / path, width=width)
        excess[path] = chromium.run(wide)
    assert not {path: pixels for path, pixels in excess.items() if pixels > 0}


@built
def test_an_equation_of_the_built_page_is_mathml(chromium):
    chromium.open(SITE / "methods/regularizers.html", "#l2sp")
    text = "document.querySelector('.equation math').textContent"
    assert chromium.run(text)
    sources = "[...document.scripts].map((s) => s.getAttribute('src') || '')"
    assert not any(source.startswith("http") for source in chromium.run(sources))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.CHROMIUM is None:
        pytest.skip("no chromium")
    page = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()
