"""The directive ``results``: a table that a script of examples has measured.

``.. results:: NAME`` shows the table of ``doc/results/NAME.json``, and below it the
command that made it, the date, the machine and the versions.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive


class Results(Directive):
    required_arguments = 1

    def run(self):
        env = self.state.document.settings.env
        path = Path(env.srcdir) / "results" / f"{self.arguments[0]}.json"
        env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"there is no {path}, which a script of examples writes")
        result = json.loads(path.read_text())
        table = nodes.table(classes=["results"])
        group = nodes.tgroup(cols=len(result["head"]))
        group += [nodes.colspec(colwidth=1) for _ in result["head"]]
        group += nodes.thead("", row(result["head"]))
        group += nodes.tbody("", *map(row, result["rows"]))
        table += group
        how = nodes.paragraph(classes=["measured"])
        how += nodes.literal(text=result["command"])
        how += nodes.Text(
            f", {result['date']}. {result['machine']}. "
            + ", ".join(result["versions"])
            + "."
        )
        return [table, how]


def row(cells):
    """A row of the table. A leading asterisk makes a cell bold."""
    found = nodes.row()
    for cell in cells:
        text = nodes.paragraph()
        if cell.startswith("*"):
            text += nodes.strong(text=cell[1:])
        else:
            text += nodes.Text(cell)
        found += nodes.entry("", text)
    return found


def setup(app):
    app.add_directive("results", Results)
    return {"parallel_read_safe": True}
