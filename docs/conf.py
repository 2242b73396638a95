"""How `make docs` builds the site: offline, from the checkout, warnings as errors."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("MPLBACKEND", "agg")

import _reference

import featbank

project = "featbank"
author = "the featbank authors"
copyright = "the featbank authors, MIT licence"
version = release = featbank.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery", "records", "**/*.ipynb"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

# The reference: types stand in the docstrings, so that signatures stay short.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
default_role = "py:obj"
smartquotes = False  # what is in quotes is code as often as not
nitpicky = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "featbank"
html_static_path = ["_static"]
html_css_files = ["featbank.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {"index": [], "start/index": []}
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    # both have a contrast of 4.5 and more (WCAG AA) for every token
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# One bank of the digits for the whole gallery; nothing is written into the checkout but the pages.
os.environ["FEATBANK_CACHE"] = tempfile.mkdtemp(prefix="featbank-gallery-")
sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["gallery_pages"],
    "filename_pattern": "/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,  # that page takes its table from elsewhere
    "image_scrapers": (_reference.display_scraper,),
    "capture_repr": ("_repr_html_",),
    "reset_modules": (),
    "doc_module": ("featbank",),
    "backreferences_dir": "gallery_pages/backreferences",
}


def setup(app: object) -> None:
    """Write the pages of the reference and the notebook before the build, and find what docstrings name."""
    if "sphinx_gallery.gen_gallery" in app.config.extensions:  # the tests parse pages without it
        _reference.write(HERE / "reference" / "generated")
        _reference.write_notebook(HERE / "gallery" / "plot_00_start.py", HERE / "start" / "start.ipynb")
    app.connect("missing-reference", _reference.resolve)
    app.connect("autodoc-skip-member", _reference.skip_foreign)
    app.connect("autodoc-process-docstring", _reference.escape, priority=900)  # behind numpydoc's
