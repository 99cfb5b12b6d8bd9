"""The tokens of the modules of Python's standard library."""

import os
import sysconfig
import token
import tokenize

# Folders that hold no library code of their own.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "turtledemo", "__pycache__"}
_SKIPPED_FOLDERS |= {"site-packages", "dist-packages"}

# Token types that become one token each, whatever their text. Angle brackets keep
# the names apart from every real token.
_ONE_NAME = {
    token.STRING: "<STRING>",
    token.COMMENT: "<COMMENT>",
    token.NEWLINE: "<NEWLINE>",
    token.NL: "<NEWLINE>",
    token.INDENT: "<INDENT>",
    token.DEDENT: "<DEDENT>",
}
_LEFT_OUT = {token.ENCODING, token.ENDMARKER}


def read_library(n_files, random_state):
    """Tokens of `n_files` modules of the standard library: {relative path: list}."""
    root = sysconfig.get_paths()["stdlib"]
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        where = os.path.relpath(folder, root).replace(os.sep, "/")
        paths += [f"{where}/{n}".removeprefix("./") for n in names if n.endswith(".py")]
    files = {}
    for path in random_state.permutation(sorted(paths)).tolist():
        if n_files is not None and len(files) == n_files:
            break
        tokens = _read_tokens(os.path.join(root, path))
        if tokens:
            files[path] = tokens
    if len(files) < 2:
        raise FileNotFoundError(
            f"The source text of the standard library is not in {root!r}. This Python "
            "may keep its library as a zip file or as compiled modules only. Use an "
            "installation of Python that has the library as .py files."
        )
    return files


def _read_tokens(path):
    """Tokens of one file, a list of str. Empty if the file does not tokenize."""
    tokens, depth = [], 0
    try:
        with open(path, "rb") as file:
            for kind, text, *_ in tokenize.tokenize(file.readline):
                name = token.tok_name[kind]
                # From Python 3.12 on an f-string is several tokens.
                if name.endswith("STRING_START"):
                    depth += 1
                    if depth == 1:
                        tokens.append("<STRING>")
                elif name.endswith("STRING_END"):
                    depth -= 1
                elif kind == token.ERRORTOKEN:
                    return []
                elif depth == 0 and kind not in _LEFT_OUT:
                    tokens.append(_ONE_NAME.get(kind, text))
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return []
    return tokens
