"""The HTML report: its content, and in a browser its script and its layout."""

import base64
import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from jaxtl.core import serialization
from jaxtl.optim import optimizer
from jaxtl.results import build_summary, records
from jaxtl.results.database import Database, Outcome
from jaxtl.results.html_report import flatten_json, plot_figure, write
from jaxtl.results.plots import sweep

EVIL = '<script>document.title = "owned"</script>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")


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
            doc=f"A sweep {EVIL} & co\n\nOf methods.",
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


def dom(path, address="", *, width=1280, extra=""):
    """The page's DOM after its scripts and an extra one ran."""
    if extra:
        copy = path.with_name("copy.html")
        copy.write_text(path.read_text("utf-8") + f"<script>{extra}</script>", "utf-8")
        path = copy
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files"]  # of one page to its frame
    command += [f"--window-size={width},900", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={path.parent / 'profile'}", path.as_uri() + address]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert "</html>" in result.stdout, result.stderr[-2000:]
    return result.stdout


def counts(text):
    return re.findall(r'class="count" role="status">([^<]*)<', text)


def test_nothing_is_fetched(text):
    page = Tags(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp", text)
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
    for fact in ("abc123", "0.10.2", "cpu: cpu", "steps=5", "sweep.py"):
        assert fact in text
    assert "72 of 73 cells done" in text


def test_the_page_is_accessible(text):
    page = Tags(text)
    assert page.attributes("html") == [{"lang": "en"}]
    assert text.count("<caption>") == len(page.attributes("table"))
    assert all(len(a["alt"]) > 20 for a in page.attributes("img"))
    assert all(
        a.get("aria-sort") for a in page.attributes("th") if a.get("scope") == "col"
    )
    for control in re.findall(r"<(?:input|select)", text):
        assert re.search(rf"<label>[^<]+{control}", text)
    labelled = re.findall(r"<label>[^<]+<(?:input|select)", text)
    assert len(labelled) == len(page.attributes("input")) + len(
        page.attributes("select")
    )
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_plots_are_vectors_inside_the_page(text, path):
    sources = [a["src"] for a in Tags(text).attributes("img")]
    pngs = list(path.parent.glob("*.png"))
    assert len(sources) == len(pngs) > 3
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert b"<svg" in base64.b64decode(data)[:2000]


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
    assert sum(row[:1] == ["LoRA"] and len(row) == 4 for row in cells) == 1


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
    assert sections == ["findings", "results", "configuration", "environment"]


@browser
def test_without_a_filter_all_lines_are_shown(path):
    text = dom(path)
    assert counts(text)[:2] == ["8 of 8 lines shown", "25 of 25 lines shown"]
    assert "owned" not in re.search("<title>(.*?)</title>", text).group(1)[:6]


@browser
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
def test_filters_come_from_the_address(path, address, shown):
    assert counts(dom(path, address))[:2] == [
        f"{n} of {total} lines shown" for n, total in zip(shown, (8, 25))
    ]


def column(text, table, index):
    """The texts of one column of a table's visible rows in the DOM."""
    block = text.partition(f'data-table="{table}"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", block.partition("<tbody>")[2], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [re.sub("<[^>]*>", "", row[index]) for row in cells]


@browser
def test_a_click_sorts_by_number_and_changes_the_address(path):
    click = (
        "document.querySelectorAll('[data-table=results] th button')[4].click();"
        "document.body.dataset.address = location.hash;"
    )
    text = dom(path, extra=click)
    values = [float(v.split()[0]) for v in column(text, "results", 4)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 8
    head = re.search(r'<th scope="col" aria-sort="descending".*?</th>', text).group()
    assert "test accuracy" in head
    assert 'data-address="#sort=4&amp;desc=1"' in text


@browser
def test_a_second_click_reverses_and_a_third_restores_the_order(path):
    click = "document.querySelectorAll('[data-table=results] th button')[4].click();"
    values = [
        float(v.split()[0]) for v in column(dom(path, extra=click * 2), "results", 4)
    ]
    assert values == sorted(values)
    text = dom(path, extra=click * 3)
    assert column(text, "results", 4) == column(dom(path), "results", 4)
    assert '<th scope="col" aria-sort="descending"' not in text


@browser
def test_missing_values_stay_last(path):
    # The baseline "full" has no difference to itself.
    for desc in ("", "&desc=1"):
        text = dom(path, f"#sort=6{desc}")
        values = column(text, "results", 6)
        assert values[-2:] == ["", ""], values
        numbers = [float(v.split()[0].replace("−", "-")) for v in values[:-2]]
        assert numbers == sorted(numbers, reverse=bool(desc))


@browser
def test_a_filter_is_typed_and_reset(path):
    script = (
        "const box = document.querySelector('[data-table=results] input');"
        "box.value = 'lora'; box.dispatchEvent(new Event('input'));"
        "document.body.dataset.before = location.hash;"
        "{}"
        "document.body.dataset.after = location.hash;"
    )
    text = dom(path, extra=script.format(""))
    assert counts(text)[0] == "2 of 8 lines shown"
    assert 'data-before="#filter=lora"' in text
    reset = "document.querySelector('[data-table=results] [data-reset]').click();"
    text = dom(path, extra=script.format(reset))
    assert counts(text)[0] == "8 of 8 lines shown"
    assert 'data-after=""' in text


@browser
def test_a_hostile_label_can_be_selected(path):
    script = (
        "const s = document.querySelector('[data-table=results] select');"
        "s.selectedIndex = 4; s.dispatchEvent(new Event('input'));"
    )
    text = dom(path, extra=script)
    assert counts(text)[0] == "2 of 8 lines shown"


@browser
@pytest.mark.parametrize("width", [360, 700, 1280])
def test_the_page_fits_a_narrow_window(path, width):
    # A headless window is at least 500 pixels wide, a frame may be narrower.
    frame = path.with_name("frame.html")
    frame.write_text(
        f'<iframe src="report.html" width="{width}" height="900"></iframe><script>'
        'addEventListener("load", () => {'
        "const page = frames[0].document.documentElement;"
        "document.body.dataset.widths = [frames[0].innerWidth, page.scrollWidth,"
        "...[...page.querySelectorAll('.scroll')].map("
        "box => box.scrollWidth > box.clientWidth)].join(' '); });</script></html>"
    )
    text = dom(frame, width=1400)
    widths = re.search(r'data-widths="([^"]*)"', text).group(1)
    frame_width, page_width, *scrolls = widths.split()
    assert int(frame_width) == width
    assert int(page_width) <= width
    if width == 360:  # wide tables scroll inside their box
        assert "true" in scrolls


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
