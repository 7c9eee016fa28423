"""Sphinx' settings for the site; `lessons.py` beside this file has what is ours. `site/build.py` calls it."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import figures

import tssa_lib

MADE = Path(os.environ["TSSA_SITE"])  # where build.py gathers, and puts what it makes

project = "From coding rate to TSSA-YOLO"
author = "The tssa_lib authors"
copyright = "the tssa_lib authors, AGPL-3.0-or-later"
release = version = tssa_lib.__version__
root_doc = "index"
exclude_patterns = ["README*.md", "data/blood_cells/LICENSE"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "lessons",
]

# ---- links: each leads somewhere, or the build fails -------------------------------------------------------------
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!tssa_lib\.|kit\.).*"),  # types of other libraries, whose documents aren't here
    ("py:.*", r"tssa_lib\.tssa\.Layer"),  # a type variable
]

# ---- lessons: stored outputs, as they are ------------------------------------------------------------------------
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no widget is stored, and its scripts would come from a CDN
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "substitution", "colon_fence", "attrs_block"]
myst_heading_anchors = 6
myst_heading_slug_func = "lessons.slug"
myst_substitutions = figures.substitutions()
myst_dmath_double_inline = True

# ---- the package ---------------------------------------------------------------------------------------------------
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_mock_imports = [] if find_spec("triton") else ["triton"]  # it is there on Linux alone
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
viewcode_follow_imported_members = False  # sources of this package alone

# ---- pages ---------------------------------------------------------------------------------------------------------
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(Path(__file__).parent / "static"), str(MADE / "static")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_show_search_summary = False  # it would fetch the pages found, which a browser refuses to a page that is a file
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# MathJax draws into the page as SVG: no font to load, which browsers refuse a page that is opened as a file.
mathjax = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0], "static", "mathjax", "tex-svg.js")
(MADE / "static").mkdir(parents=True, exist_ok=True)
shutil.copy2(mathjax, MADE / "static" / "mathjax.js")
mathjax_path = "mathjax.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
