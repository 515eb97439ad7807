"""The HTML report: its content, and in a browser its script and its layout."""

import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from browser import CHROMIUM, Browser

from jaxtl.core import serialization
from jaxtl.optim import optimizer
from jaxtl.results import build_summary, records
from jaxtl.results.database import Database, Outcome
from jaxtl.results.html_report import flatten_json, plot_figure, write
from jaxtl.results.plots import sweep

EVIL = '<script>document.title = "owned"</script>'


def outcome(key, val, seed):
    curve = [{"step": s, "accuracy": val - 1 / s} for s in (10, 20)]
    result = {
        "val": {"accuracy": val},
        "test": {"accuracy": val - 0.01},
        "monitor": "accuracy",
        "drift": val,
        "seconds": 1.0,
        "trainable_parameters": 12,
        "device": "cpu: cpu",
        "versions": {"jax": "0.10.2"},
        "git_commit": "abc123",
    }
    return Outcome(key, "done", result, {"val": curve})


DOC = """Of methods, in lines
that are joined:

    jaxtl sweep x.py

Expected:  accuracy

           full    60 ± 1
           <LoRA>  65 ± 1

The end."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    methods, rates = ("full", "L2-SP", "LoRA", f"evil {EVIL}"), (1e-3, 1e-2, 1e-1)
    cells, outcomes = [], []
    for i, method in enumerate(methods):
        for rate in rates:
            for labels in (1, 10):
                for seed in range(3):
                    key = f"{method} {rate} {labels} {seed}"
                    cell = {"method": method, "optim.lr": rate}
                    cell |= {"data.labels_per_class": labels, "seed": seed}
                    cells.append((key, cell))
                    value = 0.6 + 0.05 * i + 0.01 * labels + 0.001 * seed - rate
                    outcomes.append(outcome(key, value, seed))
    del outcomes[-1].result["device"]  # that of a baseline has none
    failed = (Outcome("x", "failed", {}, {}, f"it diverged {EVIL}"),)
    labels = {"method": "full", "optim.lr": 1.0, "data.labels_per_class": 1, "seed": 0}
    with Database(folder, create=True) as database:
        adam = serialization.to_json(optimizer.AdamW(lr=0.25))
        full = {
            "type": "jaxtl.training.experiment:Experiment",
            "steps": 5,
            "optim": adam,
        }
        database.set_meta(
            doc=f"A sweep {EVIL} & co\n\n{DOC}",
            file="sweep.py",
            experiments={"full": full, "LoRA": full | {"steps": 7}},
            overrides=["steps=5"],
        )
        database.add([*cells, ("x", labels)])
        database.finish([*outcomes, *failed])
    return records.read([folder])


@pytest.fixture(scope="module")
def path(collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    summary = build_summary.summarize(collection)
    plots = sweep.draw_all(collection, summary, folder)
    write(collection, summary, plots, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def text(path):
    return path.read_text("utf-8")


class Tags(html.parser.HTMLParser):
    """Collects (tag, attributes), and texts of elements without children."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs a chromium on the PATH")
    window = Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture
def dom(chromium, path):
    """A function: the page's DOM at an address, after a script ran."""

    def text(address="", script="0"):
        chromium.open(path, address)
        chromium.run(f"{script};0")
        return chromium.run("document.documentElement.outerHTML")

    return text


def counts(text):
    return re.findall(r'class="count" role="status">([^<]*)<', text)


def test_nothing_is_fetched(text):
    page = Tags(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, name, value[:60])
    assert not re.search(r"url\((?!#)|@import|https?://|fetch\(|XMLHttp", text)
    assert "link" not in {tag for tag, _ in page.tags}


def test_labels_are_escaped(text):
    page = Tags(text)
    assert len(page.attributes("script")) == 1  # that of the page
    assert EVIL not in text
    assert "A sweep &lt;script&gt;" in text
    assert "it diverged &lt;script&gt;" in text


def test_all_sections_are_there(text):
    page = Tags(text)
    sections = [a["id"] for a in page.attributes("section")]
    assert sections == [
        "findings",
        "results",
        "plots",
        "settings",
        "configuration",
        "failures",
        "environment",
    ]
    assert {f"#{name}" for name in sections} == {
        a["href"] for a in page.attributes("a")
    }
    for fact in ("abc123", "0.10.2", "<dd>cpu</dd>", "steps=5", "sweep.py"):
        assert fact in text
    assert "72 of 73 cells done" in text


def test_commands_and_tables_of_a_docstring_keep_their_spaces(text):
    header = text.partition("<header>")[2].partition("<nav")[0]
    parts = re.findall(r"<(p|pre)>(.*?)</\1>", header, re.DOTALL)
    lines, rest = DOC.replace("<LoRA>", "&lt;LoRA&gt;").split("\n\n", 1)
    assert parts == [("p", lines), ("pre", rest.split("\n\nThe")[0]), ("p", "The end.")]


def test_the_page_is_accessible(text):
    page = Tags(text)
    assert page.attributes("html") == [{"lang": "en"}]
    assert text.count("<caption>") == len(page.attributes("table"))
    assert all(len(a["alt"]) > 20 for a in page.attributes("img"))
    assert all(
        a.get("aria-sort") for a in page.attributes("th") if a.get("scope") == "col"
    )
    labelled = re.findall(r"<label[^>]*>[^<]+<(?:input|select)", text)
    assert len(labelled) == len(page.attributes("input")) + len(
        page.attributes("select")
    )
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_plots_are_vectors_inside_the_page(text, path):
    plots = Tags(text).attributes("svg")
    assert len(plots) == len(list(path.parent.glob("*.png"))) > 3
    assert not Tags(text).attributes("img")
    for plot in plots:
        assert plot["role"] == "img"
        assert len(plot["aria-label"]) > 20
        assert "viewbox" in plot
        assert "width" not in plot


def test_a_large_vector_is_replaced_by_the_png(path, tmp_path, monkeypatch):
    png = next(path.parent.glob("*.png"))
    for suffix in (".png", ".svg"):
        shutil.copy(png.with_suffix(suffix), tmp_path / f"p{suffix}")
    monkeypatch.setattr("jaxtl.results.html_report.LARGE", 100)
    assert 'src="data:image/png;base64,' in plot_figure(tmp_path / "p.png")


def test_fields_that_differ_between_variants_are_listed(text):
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(?:<strong>)?([^<]*)", row) for row in rows]
    assert ["LoRA", "steps", "5", "7"] in cells
    assert ["optim.lr", "0.25"] in cells
    # The fields that agree are left out.
    differences = text.partition('data-table="differences"')[2].partition("</table>")[0]
    assert differences.count("<tr>") == 2  # with the headings


def test_experiments_are_flattened_to_paths():
    experiment = {
        "type": "jaxtl.training.experiment:Experiment",
        "terms": {
            "type": "map",
            "items": [["l2sp", {"type": "m:L2SP", "weight": 0.1}]],
        },
        "head": {"type": "FROZEN"},
        "loss": {"type": "named", "name": "jaxtl.terms.losses:mse"},
        "sizes": [1, 2],
        "stages": [{"type": "m:Stage", "lr": 1.0}],
    }
    assert dict(flatten_json(experiment)) == {
        "type": "Experiment",
        "terms.l2sp": "L2SP",
        "terms.l2sp.weight": "0.1",
        "head": "FROZEN",
        "loss": "mse",
        "sizes": "[1, 2]",
        "stages.0": "Stage",
        "stages.0.lr": "1",
    }


def test_runs_without_a_sweep_have_a_page(tmp_path):
    runs = [
        records.Record(
            labels={"run": "a", "seed": s}, result=outcome("", 0.5, s).result
        )
        for s in range(2)
    ]
    collection = records.collect(runs)
    summary = build_summary.summarize(collection)
    write(collection, summary, [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    sections = [a["id"] for a in Tags(text).attributes("section")]
    # Nothing came out of one line: it stands alone, with how to read it and no filter.
    assert sections == ["results", "configuration", "environment"]
    results = text.partition('id="results"')[2].partition("</section>")[0]
    assert "How to read the tables" in results
    assert 'name="filter"' not in results


@pytest.mark.slow
def test_without_a_filter_all_lines_are_shown(dom):
    text = dom()
    assert counts(text)[:2] == ["8 of 8 lines shown", "25 of 25 lines shown"]
    assert "owned" not in re.search("<title>(.*?)</title>", text).group(1)[:6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("#filter=lora", [2, 25]),
        ("#method=L2-SP&labels_per_class=10", [1, 25]),
        ("#filter=lora&labels_per_class=10&settings.lr=0.1", [1, 8]),
        ("#filter=no+such+thing", [0, 25]),
        ("#method=nobody", [8, 25]),
        ("#plots", [8, 25]),
    ],
)
def test_filters_come_from_the_address(dom, address, shown):
    assert counts(dom(address))[:2] == [
        f"{n} of {total} lines shown" for n, total in zip(shown, (8, 25))
    ]


def column(text, table, index):
    """The texts of one column of a table's visible rows in the DOM."""
    block = text.partition(f'data-table="{table}"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", block.partition("<tbody>")[2], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [re.sub("<[^>]*>", "", row[index]) for row in cells]


@pytest.mark.slow
def test_a_click_sorts_by_number_and_changes_the_address(dom):
    click = (
        "document.querySelectorAll('[data-table=results] th button')[2].click();"
        "document.body.dataset.address = location.hash;"
    )
    text = dom(script=click)
    values = [float(v.split()[0]) for v in column(text, "results", 2)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 8
    head = re.search(r'<th scope="col" aria-sort="descending".*?</th>', text).group()
    assert "test accuracy" in head
    assert 'data-address="#sort=2&amp;desc=1"' in text


@pytest.mark.slow
def test_a_second_click_reverses_and_a_third_restores_the_order(dom):
    click = "document.querySelectorAll('[data-table=results] th button')[2].click();"
    values = [float(v.split()[0]) for v in column(dom(script=click * 2), "results", 2)]
    assert values == sorted(values)
    text = dom(script=click * 3)
    assert column(text, "results", 2) == column(dom(), "results", 2)
    assert '<th scope="col" aria-sort="descending"' not in text


@pytest.mark.slow
def test_missing_values_stay_last(dom):
    # The baseline "full" has no difference to itself.
    for desc in ("", "&desc=1"):
        text = dom(f"#sort=6{desc}")
        values = column(text, "results", 6)
        assert values[-2:] == ["", ""], values
        numbers = [float(v.split()[0].replace("−", "-")) for v in values[:-2]]
        assert numbers == sorted(numbers, reverse=bool(desc))


@pytest.mark.slow
def test_a_filter_is_typed_and_reset(dom):
    script = (
        "const box = document.querySelector('[data-table=results] input');"
        "box.value = 'lora'; box.dispatchEvent(new Event('input'));"
        "document.body.dataset.before = location.hash;"
        "{}"
        "document.body.dataset.after = location.hash;"
    )
    text = dom(script=script.format(""))
    assert counts(text)[0] == "2 of 8 lines shown"
    assert 'data-before="#filter=lora"' in text
    reset = "document.querySelector('[data-table=results] [data-reset]').click();"
    text = dom(script=script.format(reset))
    assert counts(text)[0] == "8 of 8 lines shown"
    assert 'data-after=""' in text


@pytest.mark.slow
def test_a_hostile_label_can_be_selected(dom):
    script = (
        "const s = document.querySelector('[data-table=results] select');"
        "s.selectedIndex = 4; s.dispatchEvent(new Event('input'));"
    )
    text = dom(script=script)
    assert counts(text)[0] == "2 of 8 lines shown"


OVERFLOW = """
[...document.querySelectorAll("main *, header *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && !element.closest("svg *") && box.right > innerWidth + 0.5;
}).map((element) => element.outerHTML.slice(0, 90))
"""
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map(
      (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const background = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const ratios = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const svg = element.closest("svg");
    const style = getComputedStyle(element);
    const color = rgb(svg ? style.fill : style.color);
    const fixed = svg && /#00000|#fffff/.test(element.getAttribute("style"));
    if (!own || fixed || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const [a, b] = [luminance(color), luminance(background(svg || element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    ratios.push([ratio, element.outerHTML.slice(0, 90)]);
  }
  return ratios.sort((p, q) => p[0] - q[0]).slice(0, 3);
})()
"""
TWO_LINES = """
[...document.querySelectorAll("[data-table=results] tbody tr")]
  .filter((row) => row.offsetHeight > 45).map((row) => row.textContent)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_cut_and_every_text_is_readable(chromium, path, width, dark):
    chromium.open(path, width=width, dark=dark)
    assert chromium.run("innerWidth") == width
    assert chromium.run('matchMedia("(prefers-color-scheme: dark)").matches') == dark
    assert chromium.run("document.documentElement.scrollWidth") <= width
    chromium.run("document.querySelectorAll('details').forEach((d) => d.open = true)")
    chromium.run("dispatchEvent(new Event('resize'))")
    assert not chromium.run(OVERFLOW)
    scrolls = "[...document.querySelectorAll('.scroll')].filter("
    assert not chromium.run(
        scrolls + "(box) => box.scrollWidth > box.clientWidth).length"
    )
    lowest = chromium.run(CONTRAST)
    assert lowest[0][0] >= 4.5, lowest
    if width == 1280:
        assert not chromium.run(TWO_LINES)


@pytest.mark.slow
def test_a_phone_shows_the_result_beside_the_name(chromium, path):
    chromium.open(path, width=390)
    box = "const b = e.getBoundingClientRect()"
    place = f"(e) => {{ {box}; return [b.left, b.right, b.top]; }}"
    cells = "[...document.querySelectorAll('[data-table=results] td.main')]"
    places = chromium.run(f"{cells}.map({place})")
    names = (
        f"[...document.querySelectorAll('[data-table=results] tbody th')].map({place})"
    )
    for (left, right, top), name in zip(places, chromium.run(names), strict=True):
        assert 0 < left < right < 390
        assert abs(top - name[2]) < 4
    # The list that sorts cards, as they have no headings.
    sort = "const s = document.querySelector('[data-table=results] [data-sort]');"
    chromium.run(f"{sort} s.value = '2'; s.dispatchEvent(new Event('input')); 0")
    values = chromium.run(f"{cells}.map((e) => parseFloat(e.textContent))")
    assert values == sorted(values, reverse=True)


def test_style_and_script_are_shipped(tmp_path):
    pytest.importorskip("setuptools")
    root = pathlib.Path(__file__).parents[2]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(root / name, source)
    for name in ("__init__.py", "results/__init__.py", "results/html_report.py"):
        (source / "jaxtl" / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "jaxtl" / name, source / "jaxtl" / name)
    assets = "jaxtl/results/assets"
    shutil.copytree(root / assets, source / assets)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)]
    build = subprocess.run(
        command, cwd=source, capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr[-2000:]
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{assets}/page.css", f"{assets}/page.js"} <= names
