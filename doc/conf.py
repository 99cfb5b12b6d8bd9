"""Configuration of Sphinx.

Three variables of the environment change a build: DOCS_OFFLINE=1 leaves out the links
to the documentation of other packages, DOCS_GALLERY=0 shows the examples without
running them, and DOCS_REPOSITORY is the address of the repository, for a link in the
header.
"""

import os
import sys
import warnings
from pathlib import Path

from sklearn.experimental import enable_halving_search_cv  # noqa: F401, an example

import sklearn_mach

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "sklearn_mach"
copyright = "The sklearn_mach developers"
release = version = sklearn_mach.__version__

extensions = [
    "figures",
    "kernels",
    "numpydoc",
    "results",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas look the same everywhere, also offline
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "auto_examples/**/README.rst"]
default_role = "literal"
suppress_warnings = ["config.cache"]  # the gallery's configuration holds a function

# API pages ---------------------------------------------

autodoc_member_order = "groupwise"
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
autosummary_generate = True
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
maximum_signature_line_length = 88

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "scipy": ("https://docs.scipy.org/doc/scipy", None),
    "sklearn": ("https://scikit-learn.org/stable", None),
    "joblib": ("https://joblib.readthedocs.io/en/stable", None),
}
if os.environ.get("DOCS_OFFLINE") == "1":
    intersphinx_mapping = {}
    # Docstrings inherited from scikit-learn refer to pages of its documentation.
    suppress_warnings += ["ref.ref", "ref.term"]

# Gallery ---------------------------------------------

# What the gallery passes to a script; the page of the script says so too.
GALLERY_ARGUMENTS = {"plot_next_token.py": ["--n-files", "200"]}

GALLERY_ORDER = [
    # Start here
    "plot_text.py",
    "plot_next_token.py",
    "plot_one_vs_rest.py",
    "plot_several_labels.py",
    "plot_embeddings.py",
    # Choosing
    "plot_choose_sizes.py",
    "plot_tradeoff.py",
    "plot_size.py",
    "plot_decoders.py",
    "plot_search.py",
    # Going deeper
    "plot_explain.py",
    "plot_inspect.py",
    "plot_new_classes.py",
    "plot_partial_fit.py",
    "plot_any_estimator.py",
]


def gallery_arguments(gallery_conf, script_vars):
    return GALLERY_ARGUMENTS.get(Path(script_vars["src_file"]).name, [])


def gallery_place(filename):
    return GALLERY_ORDER.index(Path(filename).name)


sphinx_gallery_conf = {
    "backreferences_dir": "generated/backreferences",
    "capture_repr": (),
    "doc_module": ("sklearn_mach",),
    "download_all_examples": False,
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "ignore_pattern": "bench_|odp|imagenet22k",
    "image_srcset": ["2x"],
    "min_reported_time": 1,
    "plot_gallery": os.environ.get("DOCS_GALLERY", "1") == "1",
    "remove_config_comments": True,
    "reset_argv": gallery_arguments,
    "show_memory": False,
    "show_signature": False,
    "within_subsection_order": gallery_place,
    "write_computation_times": False,
}
# The figures are made without a screen.
warnings.filterwarnings("ignore", message=".*is non-interactive")

# Appearance ---------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"sklearn_mach {version}"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_sidebars = {"index": [], "get_started": [], "auto_examples/*": []}
html_theme_options = {
    "logo": {"text": f"sklearn_mach {version}"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "show_nav_level": 2,
}
if "DOCS_REPOSITORY" in os.environ:
    html_theme_options["icon_links"] = [
        {
            "name": "Repository",
            "url": os.environ["DOCS_REPOSITORY"],
            "icon": "fa-solid fa-code-branch",
        }
    ]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
