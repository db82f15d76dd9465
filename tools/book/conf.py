"""Sphinx: the book from the pages that build.py has laid out; nothing is executed here."""

from docutils import nodes
from sphinx.search.en import SearchEnglish

SearchEnglish.stopwords -= {"she", "he", "we", "me"}  # mixers

project, author, copyright = "attnlab", "attnlab authors", "attnlab authors"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["jupyter_execute", "_*"]
nb_execution_mode = "off"  # the stored outputs are what the tests check
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes", "Source", "Example"]
html_theme = "furo"
html_title = "attnlab"
html_static_path = ["_own"]
html_css_files = ["book.css"]
html_js_files = ["panels.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_permalinks_icon = "#"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
mathjax = "mathjax.js"  # one file: formulas are drawn as SVG, no fonts are fetched


def visit_math(self, node: nodes.Node) -> None:
    """Leave a formula to MathJax, as it stands in the notebook."""
    left, right = (r"\[", r"\]") if isinstance(node, nodes.math_block) else (r"\(", r"\)")
    tag = "div" if isinstance(node, nodes.math_block) else "span"
    text = self.encode(node.astext().strip())
    self.body.append(
        f'<{tag} class="math mathjax_process notranslate nohighlight">{left}{text}{right}</{tag}>'
    )
    raise nodes.SkipNode


def add_mathjax(app, pagename, templatename, context, doctree) -> None:
    """Load MathJax where there is a formula."""
    if doctree and any(doctree.findall(lambda n: isinstance(n, nodes.math | nodes.math_block))):
        app.add_js_file(mathjax, defer="defer")


def keep_sentence(app, what, name, obj, options, lines) -> None:
    """Keep what stands before a colon in the words of a property from being read as its type."""
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " – ")


def setup(app) -> None:
    """Draw formulas by our own lines: those of Sphinx put ``split`` around a ``tag``."""
    app.add_html_math_renderer("own", (visit_math, None), (visit_math, None))
    app.config.html_math_renderer_name = "own"  # type: ignore[attr-defined]
    app.connect("html-page-context", add_mathjax)
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)  # before napoleon
