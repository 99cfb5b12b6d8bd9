"""The directive ``kernels``: the compiled functions of the package, module by module.

Read from the modules themselves, so that the list is never out of date.
"""

import importlib
import inspect
import pkgutil

from docutils import nodes
from docutils.parsers.rst import Directive
from numba.extending import is_jitted

import sklearn_mach


class Kernels(Directive):
    def run(self):
        found = []
        for module in pkgutil.iter_modules(sklearn_mach.__path__):
            if module.name.startswith("_gpu"):  # need CuPy; their kernels are CUDA's
                continue
            module = importlib.import_module(f"sklearn_mach.{module.name}")
            kernels = [
                function
                for function in vars(module).values()
                if is_jitted(function) and function.__module__ == module.__name__
            ]
            if kernels:
                title = nodes.paragraph("", "", nodes.literal(text=module.__name__))
                found += [title, nodes.definition_list("", *map(describe, kernels))]
        return found


def describe(kernel):
    """A name with its parameters, and the first sentence of the docstring."""
    parameters = ", ".join(inspect.signature(kernel.py_func).parameters)
    name = nodes.literal(text=f"{kernel.__name__}({parameters})")
    text = (inspect.getdoc(kernel.py_func) or "").split("\n\n")[0]
    parts = [
        nodes.literal(text=part) if i % 2 else nodes.Text(part)
        for i, part in enumerate(text.split("`"))
    ]
    return nodes.definition_list_item(
        "",
        nodes.term("", "", name),
        nodes.definition("", nodes.paragraph("", "", *parts)),
    )


def setup(app):
    app.add_directive("kernels", Kernels)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
