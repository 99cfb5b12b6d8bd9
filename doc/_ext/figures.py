"""The directive ``both-modes``: a figure with a light and a dark file.

``.. both-modes:: NAME`` with ``:alt: text`` shows ``_static/figures/NAME-light.svg`` on
light pages and ``NAME-dark.svg`` on dark ones.
"""

from docutils import nodes
from docutils.parsers.rst import Directive, directives


class BothModes(Directive):
    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}

    def run(self):
        name, alt = self.arguments[0], self.options["alt"]
        return [
            nodes.image(
                uri=f"/_static/figures/{name}-{mode}.svg",
                alt=alt,
                classes=[f"only-{mode}", "both-modes"],
            )
            for mode in ("light", "dark")
        ]


def setup(app):
    app.add_directive("both-modes", BothModes)
    return {"parallel_read_safe": True}
