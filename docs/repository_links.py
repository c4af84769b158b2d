"""A hook of MkDocs: pages may link to files of the repository outside docs/, such as ``../cluster.yaml``.

Such a file goes into the site, under ``repository/``, and is a page if it is Markdown. A link to a folder
becomes plain text, since a site lists no folders. A link to nothing stays for MkDocs to find, and fails a
strict build.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# The navigation names these, whether or not a page links to them.
NAMED_IN_NAVIGATION = ("CHANGELOG.md", "CONTRIBUTING.md")

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, and those that these link to."""
    waiting = list(NAMED_IN_NAVIGATION)
    for file in files.documentation_pages():
        waiting += _linked_paths(file)
    while waiting:
        path = waiting.pop()
        uri = _site_uri(path)
        if not (ROOT / path).is_file() or files.get_file_from_path(uri):
            continue
        file = File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(file)
        if file.is_documentation_page():
            waiting += _linked_paths(file)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between files of the site."""

    def in_site(link: re.Match[str]) -> str:
        text, target = link["text"], link["target"]
        path = _repository_path(page.file, target)
        if path is None or not (ROOT / path).exists():
            return link[0]
        if (ROOT / path).is_dir():
            return text
        place = posixpath.relpath(_site_uri(path), posixpath.dirname(page.file.src_uri))
        return f"[{text}]({urlsplit(target)._replace(path=place).geturl()})"

    return _LINK.sub(in_site, markdown)


def _linked_paths(file: File) -> list[str]:
    paths = (_repository_path(file, link["target"]) for link in _LINK.finditer(file.content_string))
    return [path for path in paths if path is not None]


def _repository_path(file: File, target: str) -> str | None:
    """Return where a link leads in the repository; None where it leads elsewhere, or within its own page."""
    url = urlsplit(target)
    if url.scheme or url.netloc or not url.path or url.path.startswith("/"):
        return None
    folder = Path(file.abs_src_path or "").parent.relative_to(ROOT).as_posix()
    path = posixpath.normpath(posixpath.join(folder, url.path))
    return None if path.startswith("..") else path


def _site_uri(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
