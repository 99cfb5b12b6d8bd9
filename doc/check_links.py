"""Check the links within the built pages: each must lead to a file and an anchor.

    python doc/check_links.py doc/_build/html

Links to other sites are counted, not followed: ``sphinx -b linkcheck`` follows them.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it links to or shows."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = {""}, set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def main(root):
    files = [
        p for p in sorted(root.rglob("*.html")) if root / "_static" not in p.parents
    ]
    pages = {path: Page(path) for path in files}
    broken, n_outside, n_inside = [], 0, 0
    for path, page in pages.items():
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                n_outside += 1
                continue
            n_inside += 1
            target = path
            if url.path:
                target = (path.parent / unquote(url.path)).resolve()
            anchor = unquote(url.fragment)
            known = target not in pages or anchor in pages[target].anchors
            if not target.exists() or not known:
                broken.append(f"{path.relative_to(root)}: {link}")
    print(
        f"{len(pages)} pages, {n_inside} links within them, {n_outside} to other sites"
    )
    if broken:
        sys.exit("broken links:\n" + "\n".join(broken))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
