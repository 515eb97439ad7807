"""Settings of Sphinx; `docs/build.py` builds the site."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]  # of the sources that build.py assembles
sys.path.insert(0, str(ROOT))

import jaxtl  # noqa: E402

project = "jaxtl"
author = "The jaxtl authors"
copyright = "the jaxtl authors"
version = release = jaxtl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docs.builder.docstrings",
    "docs.builder.signatures",
    "docs.builder.table_text",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
default_role = "literal"
toc_object_entries = False  # the sidebar is built for every page

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]  # notebooks have equations
nb_execution_mode = "off"  # notebooks are stored with their outputs, which a test runs
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "jaxtl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["from_disk.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"
html_math_renderer = "mathml"
suppress_warnings = [
    "mystnb.unknown_mime_type",
    "ref.python",  # two classes of one name: the signature names the type alone
    "misc.highlighting_failure",  # "…" stands for what a reader fills in
]
