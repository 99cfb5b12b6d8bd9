"""Problems with many classes, made on the spot, and rows from files, block by block.

:func:`load_python_tokens` turns the modules of the running Python's standard
library into a next-token problem. :func:`load_python_functions` asks which names a
function uses, several labels a row. :func:`make_many_classes` draws a long-tailed
problem of any size, sparse or dense. The indices of sparse rows are sorted, without
duplicates.

:func:`read_svmlight`, :func:`read_vw` and :func:`read_parquet` give blocks of rows of
files that may be larger than memory.
"""

from ._functions import load_python_functions
from ._many_classes import make_many_classes
from ._readers import read_parquet, read_svmlight, read_vw
from ._tokens import load_python_tokens

__all__ = [
    "load_python_functions",
    "load_python_tokens",
    "make_many_classes",
    "read_parquet",
    "read_svmlight",
    "read_vw",
]
