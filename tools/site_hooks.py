"""Hooks of the documentation site (mkdocs.yml): pages from outside ``docs/``, and docstrings' cross-references."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PUBLISHED = ("benchmarks/README.md", "benchmarks/log/2026-11.md")
"""Pages of the site that lie elsewhere in the repository; their path there is also their place in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside ``docs/``."""
    for path in PUBLISHED:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links that are right in the site."""
    here = page.file.src_uri
    in_repository = posixpath.dirname(here if here in PUBLISHED else f"docs/{here}")

    def place(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(in_repository, link[1]))
        if target not in PUBLISHED and not target.startswith("docs/"):
            return link[0]  # a strict build complains of it
        return f"]({posixpath.relpath(target.removeprefix('docs/'), posixpath.dirname(here) or '.')}"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)", place, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the roles of cross-references in docstrings (``:func:``), which are Sphinx's, and keep the names."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(?=<code>)", "", html)
