"""The page of a report: what stands in it, and in a browser its scripts and layout."""

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
from jaxtl.results.html_report import _plot, flattened, write
from jaxtl.results.plots import sweep

EVIL = '<script>document.title = "owned"</script>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")


def done(key, val, seed):
    rows = [{"step": s, "accuracy": val - 1 / s} for s in (10, 20)]
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
    return Outcome(key, "done", result, {"val": rows})


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    where = tmp_path_factory.mktemp("sweep")
    methods, rates = ("full", "L2-SP", "LoRA", f"evil {EVIL}"), (1e-3, 1e-2, 1e-1)
    cells, outcomes = [], []
    for i, method in enumerate(methods):
        for rate in rates:
            for labels in (1, 10):
                for seed in range(3):
                    key = f"{method} {rate} {labels} {seed}"
                    named = {"method": method, "optim.lr": rate}
                    named |= {"data.labels_per_class": labels, "seed": seed}
                    cells.append((key, named))
                    value = 0.6 + 0.05 * i + 0.01 * labels + 0.001 * seed - rate
                    outcomes.append(done(key, value, seed))
    failed = (Outcome("x", "failed", {}, {}, f"it diverged {EVIL}"),)
    labels = {"method": "full", "optim.lr": 1.0, "data.labels_per_class": 1, "seed": 0}
    with Database(where, create=True) as database:
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
    return records.read([where])


@pytest.fixture(scope="module")
def path(collection, tmp_path_factory):
    where = tmp_path_factory.mktemp("report")
    summary = build_summary.summarise(collection)
    plots = sweep.draw_all(collection, summary, where)
    write(collection, summary, plots, where / "report.html")
    return where / "report.html"


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

    def all(self, tag):
        return [attributes for t, attributes in self.tags if t == tag]


def dom(path, hash_="", *, width=1280, extra=""):
    """Returns the page's DOM after its scripts ran, with a script of the test's own."""
    if extra:
        copy = path.with_name("copy.html")
        copy.write_text(path.read_text("utf-8") + f"<script>{extra}</script>", "utf-8")
        path = copy
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files"]  # of one page to its frame
    command += [f"--window-size={width},900", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={path.parent / 'profile'}", path.as_uri() + hash_]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert "</html>" in found.stdout, found.stderr[-2000:]
    return found.stdout


def counts(text):
    return re.findall(r'class="count" role="status">([^<]*)<', text)


def test_nothing_is_fetched(text):
    found = Tags(text)
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp", text)
    assert "link" not in {tag for tag, _ in found.tags}


def test_labels_are_only_text(text):
    found = Tags(text)
    assert len(found.all("script")) == 1  # the page's own
    assert EVIL not in text
    assert "A sweep &lt;script&gt;" in text
    assert "it diverged &lt;script&gt;" in text


def test_all_parts_are_there(text):
    found = Tags(text)
    parts = [a["id"] for a in found.all("section")]
    assert parts == [
        "findings",
        "results",
        "plots",
        "settings",
        "configuration",
        "failures",
        "environment",
    ]
    assert {f"#{p}" for p in parts} == {a["href"] for a in found.all("a")}
    for told in ("abc123", "0.10.2", "cpu: cpu", "steps=5", "sweep.py"):
        assert told in text, told
    assert "72 of 73 cells done" in text


def test_it_can_be_read_aloud_and_by_keyboard(text):
    found = Tags(text)
    assert found.all("html") == [{"lang": "en"}]
    assert text.count("<caption>") == len(found.all("table"))
    assert all(len(a["alt"]) > 20 for a in found.all("img"))
    assert all(a.get("aria-sort") for a in found.all("th") if a.get("scope") == "col")
    for control in re.findall(r"<(?:input|select)", text):
        assert re.search(rf"<label>[^<]+{control}", text)
    inside = re.findall(r"<label>[^<]+<(?:input|select)", text)
    assert len(inside) == len(found.all("input")) + len(found.all("select"))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_pictures_are_vectors_inside_the_page(text, path):
    sources = [a["src"] for a in Tags(text).all("img")]
    pngs = list(path.parent.glob("*.png"))
    assert len(sources) == len(pngs) > 3
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert b"<svg" in base64.b64decode(data)[:2000]


def test_a_large_vector_gives_way_to_pixels(path, tmp_path, monkeypatch):
    png = next(path.parent.glob("*.png"))
    for suffix in (".png", ".svg"):
        shutil.copy(png.with_suffix(suffix), tmp_path / f"p{suffix}")
    monkeypatch.setattr("jaxtl.results.html_report.LARGE", 100)
    assert 'src="data:image/png;base64,' in _plot(tmp_path / "p.png")


def test_differences_of_variants(text):
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(?:<strong>)?([^<]*)", row) for row in rows]
    assert ["LoRA", "steps", "5", "7"] in cells
    assert ["optim.lr", "0.25"] in cells
    # Only what differs.
    assert sum(row[:1] == ["LoRA"] and len(row) == 4 for row in cells) == 1


def test_snapshots_as_paths():
    made = {
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
    assert dict(flattened(made)) == {
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
    rows = tuple(
        records.Record(labels={"run": "a", "seed": s}, result=done("", 0.5, s).result)
        for s in range(2)
    )
    found = records.Collection(records=rows, axes=records.axes(rows))
    write(found, build_summary.summarise(found), [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    parts = [a["id"] for a in Tags(text).all("section")]
    assert parts == ["findings", "results", "configuration", "environment"]


@browser
def test_without_a_filter_all_lines_are_shown(path):
    text = dom(path)
    assert counts(text)[:2] == ["8 of 8 lines shown", "25 of 25 lines shown"]
    assert "owned" not in re.search("<title>(.*?)</title>", text).group(1)[:6]


@browser
@pytest.mark.parametrize(
    ("hash_", "shown"),
    [
        ("#filter=lora", [2, 25]),
        ("#method=L2-SP&labels_per_class=10", [1, 25]),
        ("#filter=lora&labels_per_class=10&settings.lr=0.1", [1, 8]),
        ("#filter=no+such+thing", [0, 25]),
        ("#method=nobody", [8, 25]),
        ("#plots", [8, 25]),
    ],
)
def test_filters_come_from_the_address(path, hash_, shown):
    of = (8, 25)
    assert counts(dom(path, hash_))[:2] == [
        f"{n} of {total} lines shown" for n, total in zip(shown, of)
    ]


def column(text, sheet, place):
    """Returns one column of a table's visible rows in the DOM."""
    block = text.partition(f'data-sheet="{sheet}"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", block.partition("<tbody>")[2], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [re.sub("<[^>]*>", "", row[place]) for row in cells]


@browser
def test_sorting_by_a_click_is_by_number_and_is_told(path):
    click = (
        "document.querySelectorAll('[data-sheet=results] th button')[4].click();"
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
def test_a_second_and_third_click(path):
    click = "document.querySelectorAll('[data-sheet=results] th button')[4].click();"
    values = [
        float(v.split()[0]) for v in column(dom(path, extra=click * 2), "results", 4)
    ]
    assert values == sorted(values)
    text = dom(path, extra=click * 3)
    assert column(text, "results", 4) == column(dom(path), "results", 4)
    assert '<th scope="col" aria-sort="descending"' not in text


@browser
def test_what_is_unknown_stays_last(path):
    # The baseline "full" has no difference to itself.
    for desc in ("", "&desc=1"):
        text = dom(path, f"#sort=6{desc}")
        values = column(text, "results", 6)
        assert values[-2:] == ["", ""], values
        known = [float(v.split()[0].replace("−", "-")) for v in values[:-2]]
        assert known == sorted(known, reverse=bool(desc))


@browser
def test_typing_and_resetting(path):
    script = (
        "const box = document.querySelector('[data-sheet=results] input');"
        "box.value = 'lora'; box.dispatchEvent(new Event('input'));"
        "document.body.dataset.before = location.hash;"
        "{}"
        "document.body.dataset.after = location.hash;"
    )
    text = dom(path, extra=script.format(""))
    assert counts(text)[0] == "2 of 8 lines shown"
    assert 'data-before="#filter=lora"' in text
    reset = "document.querySelector('[data-sheet=results] [data-reset]').click();"
    text = dom(path, extra=script.format(reset))
    assert counts(text)[0] == "8 of 8 lines shown"
    assert 'data-after=""' in text


@browser
def test_a_hostile_label_can_be_chosen(path):
    script = (
        "const s = document.querySelector('[data-sheet=results] select');"
        "s.selectedIndex = 4; s.dispatchEvent(new Event('input'));"
    )
    text = dom(path, extra=script)
    assert counts(text)[0] == "2 of 8 lines shown"


@browser
@pytest.mark.parametrize("width", [360, 700, 1280])
def test_no_window_is_too_narrow(path, width):
    # A headless window is at least 500 wide: a frame is as narrow as it is told.
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
    found = re.search(r'data-widths="([^"]*)"', text).group(1).split()
    inner, needed = int(found[0]), int(found[1])
    assert inner == width
    assert needed <= inner
    if width == 360:  # tables scroll in their own box
        assert "true" in found[2:]


def test_style_and_script_are_shipped(tmp_path):
    pytest.importorskip("setuptools")
    root = pathlib.Path(__file__).parents[2]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(root / name, source)
    for name in ("__init__.py", "results/__init__.py", "results/html.py"):
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
