"""The documentation's site: `tox -e docs` builds it."""

import affinity

project = "numa-affinity"
author = "the numa-affinity developers"
version = release = affinity.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx_click", "stevedore.sphinxext"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "numa-affinity"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
man_pages = [
    ("reference/commands", "affinity", "put GPU workers on the CPUs and the memory next to their GPU", author, 1),
]
smartquotes = False  # `--gpu` is two hyphens
myst_heading_anchors = 4  # as code hosts make them
default_role = "code"  # docstrings have names in single backquotes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(collections\.abc|contextlib|multiprocessing\.context)\..*"),  # the build fetches no inventory
    ("py:class", r"(.*\.)?T"),  # type variables
    ("py:class", r"GpuReference|BindArguments|BaseContext|affinity\.plugins\.Plugins"),  # aliases, internal
]
